//! Which way up an image is: EXIF's orientation tag and, where EXIF has none, XMP's, as PIL's
//! `ImageOps.exif_transpose` reads them. Metadata that cannot be read means upright; it never fails the image.

use image::metadata::Orientation;

/// Orientation from an image's metadata blocks.
pub(super) fn read(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    exif.and_then(from_exif)
        .or_else(|| xmp.and_then(from_xmp))
        .unwrap_or(Orientation::NoTransforms)
}

fn from_exif(block: &[u8]) -> Option<Orientation> {
    // WebP writers often keep the prefix that JPEG's APP1 segment needs.
    Orientation::from_exif_chunk(block.strip_prefix(b"Exif\0\0").unwrap_or(block))
}

/// `tiff:Orientation="6"` (attribute) or `<tiff:Orientation>6<` (element).
fn from_xmp(packet: &[u8]) -> Option<Orientation> {
    const TAG: &[u8] = b"tiff:Orientation";
    packet
        .windows(TAG.len())
        .enumerate()
        .filter(|(_, window)| *window == TAG)
        .find_map(|(at, _)| match packet.get(at + TAG.len()..)? {
            [b'=', b'"', digit, ..] | [b'>', digit, ..] if digit.is_ascii_digit() => {
                Orientation::from_exif(digit - b'0')
            }
            _ => None,
        })
}
