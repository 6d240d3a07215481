//! JPEG by zune-jpeg, with what libjpeg (behind PIL) decides and zune-jpeg does not: a file must reach its end
//! marker, and the colour model follows libjpeg's rules for JFIF and Adobe markers (its jdapimin.c).

use std::borrow::Cow;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::decode::{Stored, undecodable};
use super::{Config, ImageError, RgbImage, orientation};

/// Decodes a JPEG: baseline or progressive; grey, YCbCr, RGB, CMYK or YCCK.
pub(super) fn decode(bytes: &[u8], config: &Config) -> Result<Stored, ImageError> {
    let layout = Layout::read(bytes);
    let (source, stored_as) = layout.for_decoder(bytes);
    // Strict: a scan with codes that do not exist is an error. The default is to paint the rest grey; PIL goes on
    // decoding noise.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(stored_as);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(source.as_ref()), options);
    decoder.decode_headers().map_err(undecodable)?;
    let info = decoder
        .info()
        .ok_or_else(|| undecodable("it has no frame header"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    config.admit(width, height)?;
    if !layout.complete {
        return Err(undecodable(
            "the JPEG is cut off: its data stop before the end-of-image marker; send the whole file",
        ));
    }
    let pixels = decoder.decode().map_err(undecodable)?;
    Ok(Stored {
        image: RgbImage {
            width,
            height,
            pixels,
        },
        orientation: orientation::read(info.exif_data.as_deref(), info.xmp_data.as_deref()),
    })
}

/// What the markers of a file say, read once from front to back.
#[derive(Debug, Default)]
struct Layout {
    /// The component identifiers of the frame header.
    components: Vec<u8>,
    jfif: bool,
    adobe: Option<Adobe>,
    /// The end-of-image marker was reached.
    complete: bool,
}

/// Adobe's APP14 segment.
#[derive(Clone, Copy, Debug)]
struct Adobe {
    /// Where its five-letter tag lies in the file.
    tag: usize,
    /// 0: RGB or CMYK, 1: YCbCr, 2: YCCK.
    transform: u8,
}

impl Layout {
    fn read(bytes: &[u8]) -> Self {
        let mut layout = Self::default();
        let mut at = 0;
        while let Some((marker, segment)) = next_marker(bytes, at) {
            at = segment;
            match marker {
                // start of image, TEM and restarts stand alone; the data after a scan's header hold the latter
                0x01 | 0xd0..=0xd8 => continue,
                0xd9 => {
                    layout.complete = true;
                    break;
                }
                _ => {}
            }
            let Some(&[high, low]) = bytes.get(segment..segment + 2) else {
                break;
            };
            let end = segment + usize::from(u16::from_be_bytes([high, low])).max(2);
            let Some(body) = bytes.get(segment + 2..end) else {
                break;
            };
            match marker {
                0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                    let components = body.get(6..).unwrap_or_default().chunks_exact(3);
                    layout.components = components.map(|component| component[0]).collect();
                }
                0xe0 if body.starts_with(b"JFIF\0") => layout.jfif = true,
                0xee if body.starts_with(b"Adobe") => {
                    layout.adobe = body.get(11).map(|&transform| Adobe {
                        tag: segment + 2,
                        transform,
                    });
                }
                _ => {}
            }
            at = end;
        }
        layout
    }

    /// The bytes to decode and the colour model to ask for. zune-jpeg takes three components under an Adobe marker of
    /// transform 0 (RGB) for broken CMYK: that marker is hidden from it, and "YCbCr" asked for, which hands the
    /// components over as they are stored. (Named `RGB`, they are RGB to zune-jpeg as well.)
    fn for_decoder<'a>(&self, bytes: &'a [u8]) -> (Cow<'a, [u8]>, ColorSpace) {
        match self.adobe {
            Some(Adobe { tag, transform })
                if self.components.len() == 3 && self.components != b"RGB" && transform != 1 =>
            {
                let mut hidden = bytes.to_vec();
                if let Some(letter) = hidden.get_mut(tag) {
                    *letter = b'a';
                }
                let stored_rgb = transform == 0 && !self.jfif;
                let model = if stored_rgb {
                    ColorSpace::YCbCr
                } else {
                    ColorSpace::RGB
                };
                (Cow::Owned(hidden), model)
            }
            _ => (Cow::Borrowed(bytes), ColorSpace::RGB),
        }
    }
}

/// The next marker at or after `at`, and the place after it. A 0xff that is stuffed (followed by 0) or a fill byte
/// (followed by another) is none.
fn next_marker(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let rest = bytes.get(at..)?;
    rest.windows(2)
        .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff))
        .map(|found| (rest[found + 1], at + found + 2))
}
