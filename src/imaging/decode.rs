//! Encoded bytes → upright RGB. The size is checked from the header before anything of that size is allocated; the
//! conversion to 8-bit RGB follows PIL's `convert("RGB")`: alpha and transparent colours are dropped, of 16 bits a
//! sample the high byte stays. (For 16-bit grey PIL clips to 255 instead, which turns nearly every such picture
//! white; here grey is treated as PIL treats colour.) What the first frame of a GIF leaves free of its canvas is black.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, Limits};

use super::format::{Format, sniff};
use super::{Config, ImageError, RgbImage, jpeg, orientation};

/// What a PNG may unpack beside its pixels (profiles, text), in bytes: a few hundred bytes can claim gigabytes.
const PNG_EXTRAS: u64 = 64 << 20;

/// What a format's decoder yields: pixels as they are stored, and which way up they are to be seen.
pub(super) struct Stored {
    pub(super) image: RgbImage,
    pub(super) orientation: Orientation,
}

/// Decodes the first frame, applies EXIF orientation, converts to RGB.
///
/// # Errors
/// `Unsupported` for formats that are known and not decoded, `TooLarge` from the header alone, `Undecodable` for
/// everything else, files cut short among them.
pub fn decode(bytes: &[u8], config: &Config) -> Result<RgbImage, ImageError> {
    let format = sniff(bytes)?;
    // The decoders parse hostile bytes; should one of them panic, that is one bad image and not the thread's end.
    // Nothing outlives the call, so no broken state can be seen afterwards.
    let stored = catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, config)))
        .unwrap_or_else(|_| {
            Err(ImageError::Undecodable(format!(
                "it made the {format:?} decoder fail"
            )))
        })?;
    upright(stored)
}

fn decode_as(format: Format, bytes: &[u8], config: &Config) -> Result<Stored, ImageError> {
    let reader = Cursor::new(bytes);
    match format {
        Format::Jpeg => jpeg::decode(bytes, config),
        Format::Png => read(PngDecoder::with_limits(reader, limits(PNG_EXTRAS)), config),
        Format::WebP => {
            admit_vp8_frames(bytes, config)?;
            read(WebPDecoder::new(reader), config)
        }
        Format::Bmp => read(BmpDecoder::new(reader), config),
        Format::Gif => read(GifDecoder::new(reader), config),
    }
}

fn limits(max_alloc: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_alloc);
    limits
}

fn read(
    decoder: image::ImageResult<impl ImageDecoder>,
    config: &Config,
) -> Result<Stored, ImageError> {
    let mut decoder = decoder.map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    config.admit(width, height)?;
    // A GIF's frame is decoded apart from its canvas, and need not be of the canvas's size.
    let largest = config.max_image_pixels.saturating_mul(4);
    decoder.set_limits(limits(largest)).map_err(undecodable)?;
    // Metadata that cannot be read leaves the picture as it is stored.
    let exif = decoder.exif_metadata().unwrap_or_default();
    let xmp = decoder.xmp_metadata().unwrap_or_default();
    let color = decoder.color_type();
    let bytes = usize::try_from(decoder.total_bytes()).map_err(undecodable)?;
    let mut samples = vec![0; bytes];
    decoder.read_image(&mut samples).map_err(undecodable)?;
    Ok(Stored {
        image: RgbImage {
            width,
            height,
            pixels: to_rgb8(samples, color)?,
        },
        orientation: orientation::read(exif.as_deref(), xmp.as_deref()),
    })
}

/// A WebP frame has a size of its own, which its decoder compares with the canvas only after decoding: checks the
/// header of every lossy frame (chunk `VP8 `, start code 9d 01 2a, two sides of 14 bits; RFC 6386, section 9.1).
fn admit_vp8_frames(bytes: &[u8], config: &Config) -> Result<(), ImageError> {
    for chunk in bytes.windows(18).filter(|chunk| chunk.starts_with(b"VP8 ")) {
        if let [.., 0x9d, 0x01, 0x2a, w0, w1, h0, h1] = *chunk {
            let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            config.admit(side(w0, w1), side(h0, h1))?;
        }
    }
    Ok(())
}

/// Drops alpha, keeps the high byte of 16-bit samples (which the decoders give in the machine's byte order), and
/// writes grey three times.
fn to_rgb8(samples: Vec<u8>, color: ColorType) -> Result<Vec<u8>, ImageError> {
    let high = if cfg!(target_endian = "little") { 1 } else { 0 };
    Ok(match color {
        ColorType::Rgb8 => samples,
        ColorType::L8 => gather(&samples, 1, [0, 0, 0]),
        ColorType::La8 => gather(&samples, 2, [0, 0, 0]),
        ColorType::Rgba8 => gather(&samples, 4, [0, 1, 2]),
        ColorType::L16 => gather(&samples, 2, [high; 3]),
        ColorType::La16 => gather(&samples, 4, [high; 3]),
        ColorType::Rgb16 => gather(&samples, 6, [high, high + 2, high + 4]),
        ColorType::Rgba16 => gather(&samples, 8, [high, high + 2, high + 4]),
        other => {
            return Err(ImageError::Undecodable(format!(
                "its samples are {other:?}, where 8 or 16 bits of grey or RGB were expected"
            )));
        }
    })
}

/// Of every pixel of `stride` bytes the three at `offsets` (below `stride`).
fn gather(samples: &[u8], stride: usize, offsets: [usize; 3]) -> Vec<u8> {
    samples
        .chunks_exact(stride)
        .flat_map(|pixel| offsets.map(|offset| pixel[offset]))
        .collect()
}

fn upright(stored: Stored) -> Result<RgbImage, ImageError> {
    let RgbImage {
        width,
        height,
        pixels,
    } = stored.image;
    let buffer = image::RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| undecodable("fewer pixels than the header declares"))?;
    let mut image = DynamicImage::ImageRgb8(buffer);
    image.apply_orientation(stored.orientation);
    let image = image.into_rgb8();
    Ok(RgbImage {
        width: image.width(),
        height: image.height(),
        pixels: image.into_raw(),
    })
}

pub(super) fn undecodable(reason: impl std::fmt::Display) -> ImageError {
    ImageError::Undecodable(reason.to_string())
}
