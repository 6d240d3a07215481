//! Preprocessing settings of a model: the defaults of its architecture, and the limits of what a file may ask for.

use crate::families::Architecture;
use crate::imaging::{Interpolation, Preprocessing};

/// Largest side an image is resized to, in pixels; far above any network's input, and small enough to allocate.
const LARGEST: u32 = 4096;

const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
const CIFAR_MEAN: [f32; 3] = [0.4914, 0.4822, 0.4465];
const CIFAR_STD: [f32; 3] = [0.2470, 0.2435, 0.2616];

/// torchvision's evaluation settings for ImageNet networks (crop 7/8 of the resized side); whole images for CIFAR's.
pub(super) fn default(architecture: &Architecture) -> Preprocessing {
    let crop = u32::try_from(architecture.input_size).unwrap_or(LARGEST);
    if crop <= 32 {
        return Preprocessing {
            resize: crop,
            crop,
            interpolation: Interpolation::Bilinear,
            mean: CIFAR_MEAN,
            std: CIFAR_STD,
        };
    }
    Preprocessing {
        resize: resize_for(crop, 0.875),
        crop,
        interpolation: Interpolation::Bilinear,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
    }
}

/// Side before the crop, as timm computes it.
pub(super) fn resize_for(crop: u32, crop_pct: f64) -> u32 {
    (f64::from(crop) / crop_pct).floor() as u32
}

/// # Errors
/// Names the filters there are.
pub(super) fn interpolation(name: &str) -> Result<Interpolation, String> {
    match name {
        "nearest" => Ok(Interpolation::Nearest),
        "bilinear" => Ok(Interpolation::Bilinear),
        "bicubic" => Ok(Interpolation::Bicubic),
        "lanczos" => Ok(Interpolation::Lanczos),
        _ => Err(format!(
            "interpolation is {name:?}; expected nearest, bilinear, bicubic or lanczos"
        )),
    }
}

/// # Errors
/// In words, for settings that no image could be prepared with.
pub(super) fn check(settings: &Preprocessing) -> Result<(), String> {
    let Preprocessing {
        resize,
        crop,
        mean,
        std,
        ..
    } = settings;
    if *crop == 0 || crop > resize || *resize > LARGEST {
        return Err(format!(
            "resize is {resize} and crop {crop}; expected 1 <= crop <= resize <= {LARGEST}"
        ));
    }
    if !mean.iter().all(|v| v.is_finite()) || !std.iter().all(|v| v.is_finite() && *v > 0.0) {
        return Err(format!(
            "mean is {mean:?} and std {std:?}; expected numbers for R, G and B on the scale from 0 to 1, std above 0"
        ));
    }
    Ok(())
}
