//! Encoded images to network input, equal to what PIL and torchvision make of them.
//!
//! Bytes → `format` (which decoder, or why none) → `decode` and `jpeg` (limits first, then upright 8-bit RGB) →
//! `preprocess` and `resample` (resize, crop, and how engines normalise). Alpha is dropped rather than composited, as
//! PIL's `convert("RGB")` does.

mod decode;
mod format;
mod jpeg;
mod orientation;
mod preprocess;
mod resample;
#[cfg(test)]
mod tests;

use std::fmt;

pub use decode::decode;
pub use preprocess::{Interpolation, InvalidPreprocessing, Preprocessing, UnknownInterpolation};

/// Upright 8-bit RGB pixels, row-major, `[height, width, 3]`.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    pub width: u32,
    pub height: u32,
    pub pixels: Vec<u8>,
}

/// Limits on what is decoded.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Images of more pixels than this are refused from their header (`--max-image-pixels`).
    pub max_image_pixels: u64,
}

/// The size alone: the pixels would fill a log.
impl fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RgbImage({}x{})", self.width, self.height)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_image_pixels: 50_000_000,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Known by its first bytes or its name, but not one we decode (TIFF, AVIF, HEIC, PSD, JPEG XL, ...).
    #[error("{format} images are not supported; send JPEG, PNG, WebP, BMP or GIF")]
    Unsupported { format: &'static str },
    #[error("the image cannot be decoded: {0}")]
    Undecodable(String),
    #[error("the image has {pixels} pixels ({width}x{height}), more than the {limit} allowed")]
    TooLarge {
        width: u32,
        height: u32,
        pixels: u64,
        limit: u64,
    },
}

impl Config {
    /// Checks the size that a header declares, before anything of that size is allocated.
    fn admit(&self, width: u32, height: u32) -> Result<(), ImageError> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 {
            return Err(ImageError::Undecodable(format!(
                "its header declares {width}x{height} pixels, but both sides must be at least 1"
            )));
        }
        if pixels > self.max_image_pixels {
            return Err(ImageError::TooLarge {
                width,
                height,
                pixels,
                limit: self.max_image_pixels,
            });
        }
        Ok(())
    }
}
