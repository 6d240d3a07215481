//! Encoded images to network input, equal to what PIL and torchvision make of them.

/// How a model's images are prepared, in torchvision's order: resize the shorter side, crop the centre, scale to
/// `[0, 1]`, subtract `mean`, divide by `std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// Length of the shorter side after resizing, in pixels.
    pub resize: u32,
    /// Side of the square centre crop, in pixels; the network's input size.
    pub crop: u32,
    pub interpolation: Interpolation,
    /// Per channel, RGB.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Resampling filter, with PIL's antialiasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

/// Upright 8-bit RGB pixels, row-major, `[height, width, 3]`.
#[derive(Clone, Debug)]
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

/// Decodes the first frame, applies EXIF orientation, converts to RGB.
pub fn decode(bytes: &[u8], config: &Config) -> Result<RgbImage, ImageError> {
    let _ = (bytes, config);
    unimplemented!()
}

impl Preprocessing {
    /// Network input `[3, crop, crop]` of one image.
    pub fn apply(&self, image: &RgbImage) -> Vec<f32> {
        let _ = image;
        unimplemented!()
    }
}
