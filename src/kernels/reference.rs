//! What the kernels mean, in plain loops over planes (`[image][channel][row][column]`), summed in f64.

use super::conv::ConvSpec;
use super::epilogue::Operation;
use super::pool::{PoolSpec, Reduce};

/// Size of one image's planes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planes {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Planes {
    pub fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Convolution in seven loops.
pub fn conv(
    spec: &ConvSpec,
    batch: usize,
    size: Planes,
    input: &[f32],
    weights: &[f32],
) -> Vec<f32> {
    let (height, width) = spec.output_size(size.height, size.width);
    let (inputs, outputs) = (
        spec.in_channels / spec.groups,
        spec.out_channels / spec.groups,
    );
    let mut output = Vec::with_capacity(batch * spec.out_channels * height * width);
    for image in 0..batch {
        for to in 0..spec.out_channels {
            for y in 0..height {
                for x in 0..width {
                    let mut sum = 0.0;
                    for from in 0..inputs {
                        let channel = image * size.channels + to / outputs * inputs + from;
                        for i in 0..spec.kernel.0 {
                            for j in 0..spec.kernel.1 {
                                let row = (y * spec.stride + i).wrapping_sub(spec.padding.0);
                                let column = (x * spec.stride + j).wrapping_sub(spec.padding.1);
                                if row < size.height && column < size.width {
                                    let value =
                                        input[(channel * size.height + row) * size.width + column];
                                    let weight = weights[((to * inputs + from) * spec.kernel.0
                                        + i)
                                        * spec.kernel.1
                                        + j];
                                    sum += f64::from(value) * f64::from(weight);
                                }
                            }
                        }
                    }
                    output.push(sum as f32);
                }
            }
        }
    }
    output
}

/// Pooling, window by window.
pub fn pool(spec: &PoolSpec, batch: usize, size: Planes, input: &[f32]) -> Vec<f32> {
    let mut output = Vec::new();
    for plane in input[..batch * size.len()].chunks_exact(size.height * size.width) {
        for row in &spec.rows {
            for column in &spec.columns {
                let values = (row.from..row.to).flat_map(|y| {
                    (column.from..column.to).map(move |x| f64::from(plane[y * size.width + x]))
                });
                output.push(match spec.reduce {
                    Reduce::Max => values.fold(f64::NEG_INFINITY, f64::max),
                    Reduce::Average => values.sum::<f64>() / (row.counted * column.counted) as f64,
                } as f32);
            }
        }
    }
    output
}

/// An epilogue on whole planes; `added` holds planes too.
pub fn epilogue(
    operations: &[Operation],
    batch: usize,
    size: Planes,
    values: &mut [f32],
    added: &[Vec<f32>],
) {
    let plane = size.height * size.width;
    let mut added = added.iter();
    for operation in operations {
        let other = match operation {
            Operation::Add(_) => added.next(),
            _ => None,
        };
        for (i, value) in values[..batch * size.len()].iter_mut().enumerate() {
            let channel = i / plane % size.channels;
            *value = match operation {
                Operation::Bias(bias) => *value + bias[channel],
                Operation::Affine { scale, shift } => *value * scale[channel] + shift[channel],
                Operation::Add(_) => *value + other.map_or(0.0, |other| other[i]),
                Operation::Scale(factor) => *value * factor,
                Operation::Relu => value.max(0.0),
            };
        }
    }
}
