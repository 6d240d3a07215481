//! Antialiased resampling, to the bit what Pillow 13 does to 8-bit images: weights with 22 fractional bits, along the
//! rows first unless the image is tall, rounded to 8 bits between the passes (filters: Keys 1981, Duchon 1979).
//! An own loop because fast_image_resize rounds weights to 16 bits, which is two levels off where an image is enlarged.

use std::ops::Range;

use super::{Interpolation, RgbImage};

/// Fractional bits of a weight; with 8 bits of sample, and sums below 2, products stay inside an i32.
const FRACTION: u32 = 22;

/// One axis of a resize: which of the resized pixels are wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// Length of the axis before and after resizing, in pixels, at least 1.
    pub(super) stored: u32,
    pub(super) resized: u64,
    /// The resized pixels to compute: the first, and how many.
    pub(super) start: u64,
    pub(super) len: u32,
}

/// What makes one resized pixel: neighbouring stored pixels and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The wanted part of the resized image: `[rows.len, columns.len, 3]`. `image` must have the stored size of both axes.
pub(super) fn resample(
    image: &RgbImage,
    columns: &Axis,
    rows: &Axis,
    interpolation: Interpolation,
) -> RgbImage {
    let column_taps = columns.taps(interpolation);
    let row_taps = rows.taps(interpolation);
    let stride = 3 * image.width as usize;
    // Pillow takes the columns of a tall image first where that leaves it smaller; a cubic or a sinc overshoots and is
    // cut off between the passes, so that their order shows.
    let (width, height) = (u64::from(columns.stored), u64::from(rows.stored));
    let tall = height > 2 * width && rows.resized < height;
    let pixels = if tall {
        let shortened = down_columns(&image.pixels, stride, &row_taps);
        along_rows(shortened.chunks_exact(stride), &column_taps)
    } else {
        // only the stored rows that a wanted row rests on
        let band = reach(&row_taps);
        let used = image.pixels.chunks_exact(stride);
        let narrowed = along_rows(used.take(band.end).skip(band.start), &column_taps);
        let row_taps: Vec<_> = row_taps
            .into_iter()
            .map(|taps| taps.shifted(band.start))
            .collect();
        down_columns(&narrowed, 3 * column_taps.len(), &row_taps)
    };
    RgbImage {
        width: columns.len,
        height: rows.len,
        pixels,
    }
}

fn along_rows<'a>(rows: impl Iterator<Item = &'a [u8]>, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows {
        for Taps { first, weights } in taps {
            let mut sum = [0; 3];
            for (pixel, &weight) in row[3 * first..].chunks_exact(3).zip(weights) {
                for (sum, &sample) in sum.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(sample);
                }
            }
            out.extend(sum.map(level));
        }
    }
    out
}

fn down_columns(narrowed: &[u8], stride: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(taps.len() * stride);
    let mut sums = vec![0; stride];
    for Taps { first, weights } in taps {
        sums.fill(0);
        for (row, &weight) in narrowed[first * stride..].chunks_exact(stride).zip(weights) {
            for (sum, &sample) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(sample);
            }
        }
        out.extend(sums.iter().map(|&sum| level(sum)));
    }
    out
}

/// Rounds a weighted sum to an 8-bit level.
fn level(sum: i32) -> u8 {
    let rounded = (sum + (1 << (FRACTION - 1))) >> FRACTION;
    rounded.clamp(0, 255) as u8
}

/// The stored pixels that any of `taps` rests on.
fn reach(taps: &[Taps]) -> Range<usize> {
    let first = taps.iter().map(|taps| taps.first).min().unwrap_or(0);
    let end = taps
        .iter()
        .map(|taps| taps.first + taps.weights.len())
        .max();
    first..end.unwrap_or(first)
}

impl Taps {
    /// The same taps in an image that lacks its first `dropped` lines.
    fn shifted(mut self, dropped: usize) -> Self {
        self.first -= dropped;
        self
    }
}

impl Axis {
    /// Taps for every wanted pixel; all lie inside `0..stored`.
    fn taps(&self, interpolation: Interpolation) -> Vec<Taps> {
        let wanted = self.start..self.start + u64::from(self.len);
        match interpolation {
            Interpolation::Nearest => self.nearest(),
            Interpolation::Bilinear => wanted.map(|at| self.window(at, 1.0, triangle)).collect(),
            Interpolation::Bicubic => wanted.map(|at| self.window(at, 2.0, cubic)).collect(),
            Interpolation::Lanczos => wanted.map(|at| self.window(at, 3.0, lanczos)).collect(),
        }
    }

    /// The stored pixels under the middles of the resized ones. Pillow adds up the step from middle to middle, and the
    /// error of those additions decides where a middle falls between two pixels; so they are repeated here, but
    /// only to a bound, since `start` may be in the thousands of millions.
    fn nearest(&self) -> Vec<Taps> {
        const MAX_STEPS: u64 = 1 << 20;
        let step = f64::from(self.stored) / self.resized as f64;
        let mut middle = if self.start <= MAX_STEPS {
            (0..self.start).fold(0.5 * step, |middle, _| middle + step)
        } else {
            (self.start as f64 + 0.5) * step
        };
        let mut taps = Vec::with_capacity(self.len as usize);
        for _ in 0..self.len {
            taps.push(Taps {
                first: (middle as usize).min(self.stored as usize - 1),
                weights: vec![1 << FRACTION],
            });
            middle += step;
        }
        taps
    }

    /// The window of a filter that reaches `support` pixels either way, widened by the factor of a reduction.
    fn window(&self, place: u64, support: f64, filter: fn(f64) -> f64) -> Taps {
        let scale = f64::from(self.stored) / self.resized as f64;
        let widening = scale.max(1.0);
        let middle = (place as f64 + 0.5) * scale;
        // `as` cuts the fraction off and saturates at 0
        let first = (middle - support * widening + 0.5) as u32;
        let end = ((middle + support * widening + 0.5) as u32).min(self.stored);
        let narrowing = 1.0 / widening;
        let weights: Vec<f64> = (first..end)
            .map(|pixel| filter((f64::from(pixel) - middle + 0.5) * narrowing))
            .collect();
        let sum: f64 = weights.iter().sum();
        let one = f64::from(1 << FRACTION);
        Taps {
            first: first as usize,
            weights: weights
                .iter()
                .map(|weight| (weight / sum * one).round() as i32)
                .collect(),
        }
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic convolution with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        A * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

/// Sinc under the middle lobe of a sinc three times as wide.
fn lanczos(x: f64) -> f64 {
    if x.abs() < 3.0 {
        sinc(x) * sinc(x / 3.0)
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}
