//! What a body of bytes is, by its first bytes alone: content types and file names are often wrong. Formats that are
//! recognised but not decoded are named, so that the caller is told more than "not an image".

use super::ImageError;

/// The formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Bmp,
    Gif,
}

/// Leading bytes of formats that are known and not supported.
const UNSUPPORTED: &[(&[u8], &str)] = &[
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "PSD"),
    (b"\0\0\x01\0", "ICO"),
    (b"\0\0\x02\0", "CUR"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"<svg", "SVG"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"gimp xcf", "XCF"),
    (b"icns", "ICNS"),
    (b"farbfeld", "farbfeld"),
];

/// Names the decoder for `bytes`.
///
/// # Errors
/// `Unsupported` for a format that is known and not decoded, `Undecodable` for anything else.
pub(super) fn sniff(bytes: &[u8]) -> Result<Format, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Undecodable(
            "it is empty; send the bytes of a JPEG, PNG, WebP, BMP or GIF file".to_owned(),
        ));
    }
    if bytes.starts_with(b"\xff\xd8\xff") {
        Ok(Format::Jpeg)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Ok(Format::Png)
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Ok(Format::WebP)
    } else if bytes.starts_with(b"BM") {
        Ok(Format::Bmp)
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        Ok(Format::Gif)
    } else if let Some(format) = known(bytes) {
        Err(ImageError::Unsupported { format })
    } else {
        Err(ImageError::Undecodable(
            "its first bytes are those of no known image format; send the bytes of a JPEG, PNG, WebP, BMP or GIF file"
                .to_owned(),
        ))
    }
}

fn known(bytes: &[u8]) -> Option<&'static str> {
    let by_prefix = UNSUPPORTED
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map(|&(_, name)| name);
    by_prefix
        .or_else(|| iso_media(bytes))
        .or_else(|| pnm(bytes))
        .or_else(|| svg(bytes))
}

/// ISO base media files (a box of type `ftyp`) by their major brand.
fn iso_media(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(4..8) != Some(b"ftyp") {
        return None;
    }
    Some(match bytes.get(8..12)? {
        b"avif" | b"avis" => "AVIF",
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => "HEIC",
        b"mif1" | b"msf1" => "HEIF",
        b"jp2 " => "JPEG 2000",
        _ => "ISO media (MP4 and the like)",
    })
}

/// `P1` to `P7` followed by white space.
fn pnm(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'P', b'1'..=b'7', space, ..] if space.is_ascii_whitespace() => {
            Some("PNM (PBM, PGM, PPM, PAM)")
        }
        _ => None,
    }
}

/// XML, perhaps after a byte order mark and white space, is SVG if it is an image at all.
fn svg(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(bytes)
        .trim_ascii_start();
    (text.starts_with(b"<svg") || text.starts_with(b"<?xml") || text.starts_with(b"<!DOCTYPE svg"))
        .then_some("SVG")
}
