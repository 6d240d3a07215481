//! Upright RGB → network input, as torchvision does it to a PIL image: `Resize` of the shorter side with PIL's
//! antialiased filters, `CenterCrop`, `ToTensor`, `Normalize`; the last two are the engine's [`Normalization`]. Only the
//! part of the resized image that the crop keeps is computed, so that an image of extreme proportions costs no more than
//! another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::resample::{Axis, resample};
use super::{ImageError, RgbImage};
use crate::engine::Normalization;

/// How a model's images are prepared, in torchvision's order: resize the shorter side, crop the centre, scale to
/// `[0, 1]`, subtract `mean`, divide by `std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Length of the shorter side after resizing, in pixels.
    pub resize: u32,
    /// Side of the square centre crop, in pixels; the network's input size. Where the resized image is smaller, it is
    /// padded with black.
    pub crop: u32,
    pub interpolation: Interpolation,
    /// Per channel, RGB.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Resampling filter, with PIL's antialiasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

/// Settings that cannot be meant.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum InvalidPreprocessing {
    #[error("{name} is {value}, but must be between 1 and {max} pixels")]
    Size {
        name: &'static str,
        value: u32,
        max: u32,
    },
    #[error("mean is {0:?}, but must be three finite numbers")]
    Mean([f32; 3]),
    #[error("std is {0:?}, but must be three finite numbers above 0")]
    Std([f32; 3]),
}

/// The name of an interpolation that is none of those known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown interpolation `{0}`; expected nearest, bilinear, bicubic or lanczos")]
pub struct UnknownInterpolation(String);

impl Preprocessing {
    /// Largest `resize` and `crop` accepted by [`Preprocessing::validate`]: far above any published network's input.
    pub const MAX_SIZE: u32 = 4096;

    /// ImageNet at 224 pixels, as torchvision's weights were trained and measured.
    pub const fn imagenet() -> Self {
        Self {
            resize: 256,
            crop: 224,
            interpolation: Interpolation::Bilinear,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }

    /// CIFAR-10 at 32 pixels.
    pub const fn cifar10() -> Self {
        Self {
            resize: 32,
            crop: 32,
            interpolation: Interpolation::Bilinear,
            mean: [0.4914, 0.4822, 0.4465],
            std: [0.2470, 0.2435, 0.2616],
        }
    }

    /// Refuses sizes outside `1..=4096`, and a mean or std that would make the input infinite or not a number.
    pub fn validate(&self) -> Result<(), InvalidPreprocessing> {
        for (name, value) in [("resize", self.resize), ("crop", self.crop)] {
            if !(1..=Self::MAX_SIZE).contains(&value) {
                return Err(InvalidPreprocessing::Size {
                    name,
                    value,
                    max: Self::MAX_SIZE,
                });
            }
        }
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return Err(InvalidPreprocessing::Mean(self.mean));
        }
        if !self.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return Err(InvalidPreprocessing::Std(self.std));
        }
        Ok(())
    }

    /// Network input `[3, crop, crop]` of one image.
    ///
    /// # Errors
    /// `Undecodable` where `image` is not `width * height` pixels of three bytes, at least one, or where these settings
    /// are not valid; never for what [`super::decode`] yields under settings that were validated.
    pub fn apply(&self, image: &RgbImage) -> Result<Vec<f32>, ImageError> {
        let cropped = self.resize_and_crop(image)?;
        let mut input = vec![0.0; cropped.pixels.len()];
        let written = self.normalization().write(&cropped.pixels, &mut input);
        // a crop is three values a pixel, so this holds
        written.map_err(|error| ImageError::Undecodable(error.to_string()))?;
        Ok(input)
    }

    /// The 8-bit `[crop, crop, 3]` image before normalisation.
    ///
    /// # Errors
    /// As [`Preprocessing::apply`].
    pub fn resize_and_crop(&self, image: &RgbImage) -> Result<RgbImage, ImageError> {
        self.validate()
            .map_err(|error| ImageError::Undecodable(format!("preprocessing: {error}")))?;
        let bytes = 3 * u128::from(image.width) * u128::from(image.height);
        if bytes == 0 || image.pixels.len() as u128 != bytes {
            return Err(ImageError::Undecodable(format!(
                "{} bytes are not {}x{} pixels of RGB",
                image.pixels.len(),
                image.width,
                image.height
            )));
        }
        let (width, height) = resized(image.width, image.height, self.resize);
        let (columns, left) = centred(image.width, width, self.crop);
        let (rows, top) = centred(image.height, height, self.crop);
        let part = if image.width.min(image.height) == self.resize {
            // torchvision leaves an image of the right size alone, whatever the filter
            copy(image, &columns, &rows)
        } else {
            resample(image, &columns, &rows, self.interpolation)
        };
        Ok(pad(part, left, top, self.crop))
    }

    /// What an engine makes of the pixels of [`Preprocessing::resize_and_crop`].
    pub fn normalization(&self) -> Normalization {
        Normalization::new(self.mean, self.std)
    }
}

/// Width and height after the shorter side has become `resize`; the longer is rounded down, as torchvision does.
fn resized(width: u32, height: u32, resize: u32) -> (u64, u64) {
    let (short, long) = (width.min(height), width.max(height));
    let longer = u64::from(resize) * u64::from(long) / u64::from(short);
    if width <= height {
        (resize.into(), longer)
    } else {
        (longer, resize.into())
    }
}

/// Which pixels of the resized image the centre crop keeps on one axis, and how many black ones come before them where
/// the crop is larger than the image.
fn centred(stored: u32, resized: u64, crop: u32) -> (Axis, u32) {
    let (start, len, margin) = match resized.checked_sub(crop.into()) {
        Some(excess) => (half_to_even(excess), crop, 0),
        // here `resized` is below `crop`, so it fits
        None => (0, resized as u32, (crop - resized as u32) / 2),
    };
    let axis = Axis {
        stored,
        resized,
        start,
        len,
    };
    (axis, margin)
}

/// `round(excess / 2)` as Python rounds: a half goes to the even neighbour.
fn half_to_even(excess: u64) -> u64 {
    let half = excess / 2;
    if excess % 2 == 1 && half % 2 == 1 {
        half + 1
    } else {
        half
    }
}

/// The kept part of an image that needs no resampling.
fn copy(image: &RgbImage, columns: &Axis, rows: &Axis) -> RgbImage {
    let stride = 3 * image.width as usize;
    let first = 3 * columns.start as usize;
    let kept = first..first + 3 * columns.len as usize;
    let pixels = image
        .pixels
        .chunks_exact(stride)
        .skip(rows.start as usize)
        .take(rows.len as usize)
        .flat_map(|row| &row[kept.clone()])
        .copied()
        .collect();
    RgbImage {
        width: columns.len,
        height: rows.len,
        pixels,
    }
}

/// Puts `part` into a black square of side `crop`.
fn pad(part: RgbImage, left: u32, top: u32, crop: u32) -> RgbImage {
    if part.width == crop && part.height == crop {
        return part;
    }
    let stride = 3 * crop as usize;
    let mut pixels = vec![0; stride * crop as usize];
    let from = 3 * left as usize;
    let len = 3 * part.width as usize;
    let rows = pixels.chunks_exact_mut(stride).skip(top as usize);
    for (row, kept) in rows.zip(part.pixels.chunks_exact(len)) {
        row[from..from + len].copy_from_slice(kept);
    }
    RgbImage {
        width: crop,
        height: crop,
        pixels,
    }
}

impl Interpolation {
    const ALL: [Self; 4] = [Self::Nearest, Self::Bilinear, Self::Bicubic, Self::Lanczos];

    const fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        }
    }
}

impl FromStr for Interpolation {
    type Err = UnknownInterpolation;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|interpolation| interpolation.name() == name)
            .ok_or_else(|| UnknownInterpolation(name.to_owned()))
    }
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
