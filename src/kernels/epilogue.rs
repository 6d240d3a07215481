//! What happens to an output value between the end of its reduction and its store: a list of operations, in order.
//!
//! The list is data; every kernel that takes one runs [`apply`] on vectors that are still in registers.

use super::buffer::Buffer;
use super::layout::{Layout, Plane, View};
use super::simd::Simd;

/// One step of an epilogue.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Adds one value a channel; zeros beyond the last channel, up to [`Layout::listed`].
    Bias(Buffer),
    /// Multiplies by `scale` and adds `shift`, one value a channel each; zeros as above.
    Affine { scale: Buffer, shift: Buffer },
    /// Adds a tensor of the output's shape, laid out as this says; the tensors come with each call, in this order.
    Add(Layout),
    /// Multiplies by a constant.
    Scale(f32),
    /// The larger of the value and zero.
    Relu,
}

/// An ordered list of operations.
#[derive(Clone, Debug, Default)]
pub struct Epilogue {
    operations: Vec<Operation>,
}

/// An operation with the tensor of this call.
pub(super) enum Bound<'a> {
    Bias(&'a [f32]),
    Affine(&'a [f32], &'a [f32]),
    Add(&'a [f32], View),
    Scale(f32),
    Relu,
}

/// Where a tile lies in the output's plane.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub(super) image: usize,
    /// In blocks of the instruction set's own element.
    pub(super) block: usize,
    pub(super) row: usize,
    pub(super) pixel: usize,
}

impl View {
    /// The word at a place.
    fn at(&self, at: Position) -> usize {
        self.origin
            + at.image * self.image
            + at.block * self.block
            + at.row * self.row
            + at.pixel * self.pixel
    }
}

/// Vectors of `R` rows of `Q` pixels, `B` of each: one or two a block, as [`Simd::CELL`] says.
pub(super) type Tile<V, const R: usize, const Q: usize, const B: usize> = [[[V; B]; Q]; R];

impl Epilogue {
    pub fn new(operations: Vec<Operation>) -> Self {
        Self { operations }
    }

    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Layouts of the tensors that a call must bring.
    fn added(&self) -> impl Iterator<Item = &Layout> {
        self.operations
            .iter()
            .filter_map(|operation| match operation {
                Operation::Add(layout) => Some(layout),
                _ => None,
            })
    }

    pub(super) fn adds_nothing(&self) -> bool {
        self.added().next().is_none()
    }

    /// Whether every added tensor allows the plane.
    pub(super) fn allows(&self, plane: Plane) -> bool {
        self.added().all(|layout| layout.allows(plane))
    }

    /// What does not fit an output of this layout, if anything.
    pub(super) fn misfit(&self, output: &Layout) -> Option<String> {
        let values = output.listed();
        for operation in &self.operations {
            let short = |b: &Buffer| b.len() < values;
            let fits = match operation {
                Operation::Bias(bias) => !short(bias),
                Operation::Affine { scale, shift } => !short(scale) && !short(shift),
                Operation::Add(layout) => {
                    Layout {
                        border: output.border,
                        gap: output.gap,
                        ..*layout
                    } == *output
                }
                Operation::Scale(_) | Operation::Relu => true,
            };
            if !fits {
                return Some(format!(
                    "the epilogue's {operation:?} does not fit an output of {output:?}"
                ));
            }
        }
        None
    }

    /// Joins the list with the tensors of one call.
    ///
    /// # Panics
    /// When a tensor is missing or too short for its layout and the batch; what follows reads without checks.
    pub(super) fn bind<'a>(
        &'a self,
        plane: Plane,
        batch: usize,
        added: &[&'a [f32]],
    ) -> Vec<Bound<'a>> {
        assert_eq!(
            self.added().count(),
            added.len(),
            "tensors for the epilogue"
        );
        let mut added = added.iter();
        let bound = self.operations.iter().map(|operation| match operation {
            Operation::Bias(bias) => Some(Bound::Bias(bias)),
            Operation::Affine { scale, shift } => Some(Bound::Affine(scale, shift)),
            Operation::Add(layout) => added.next().map(|data| {
                assert!(
                    data.len() >= layout.extent(batch),
                    "a tensor to add is too short"
                );
                Bound::Add(data, layout.view(plane))
            }),
            Operation::Scale(factor) => Some(Bound::Scale(*factor)),
            Operation::Relu => Some(Bound::Relu),
        });
        bound.flatten().collect()
    }
}

/// Runs the list on one tile.
///
/// # Safety
/// The tile lies inside the output that the epilogue was checked against with [`Epilogue::misfit`], in the plane and
/// batch it was bound for.
#[inline(always)]
pub(super) unsafe fn apply<S: Simd, const R: usize, const Q: usize, const B: usize>(
    simd: S,
    operations: &[Bound<'_>],
    at: Position,
    tile: &mut Tile<S::Vector, R, Q, B>,
) {
    for operation in operations {
        match operation {
            Bound::Bias(bias) => {
                for b in 0..B {
                    // SAFETY: the list holds a value for every lane of every block.
                    let bias = unsafe {
                        simd.load(bias.as_ptr().add((at.block * S::CELL + b) * S::LANES))
                    };
                    for row in tile.iter_mut() {
                        for pixel in row.iter_mut() {
                            pixel[b] = simd.add(pixel[b], bias);
                        }
                    }
                }
            }
            Bound::Affine(scale, shift) => {
                for b in 0..B {
                    let from = (at.block * S::CELL + b) * S::LANES;
                    // SAFETY: both lists hold a value for every lane of every block.
                    let (scale, shift) = unsafe {
                        (
                            simd.load(scale.as_ptr().add(from)),
                            simd.load(shift.as_ptr().add(from)),
                        )
                    };
                    for row in tile.iter_mut() {
                        for pixel in row.iter_mut() {
                            pixel[b] = simd.fma(pixel[b], scale, shift);
                        }
                    }
                }
            }
            Bound::Add(data, view) => {
                let from = view.at(at);
                for (r, row) in tile.iter_mut().enumerate() {
                    for (q, pixel) in row.iter_mut().enumerate() {
                        for (c, cell) in pixel.chunks_exact_mut(S::CELL).enumerate() {
                            let at = from + r * view.row + q * view.pixel + c * view.block;
                            // SAFETY: the tensor has the output's shape, and the tile lies inside the output.
                            let other = unsafe { simd.load_cell(data.as_ptr().add(at)) };
                            for (value, other) in cell.iter_mut().zip(other) {
                                *value = simd.add(*value, other);
                            }
                        }
                    }
                }
            }
            Bound::Scale(factor) => {
                let factor = simd.splat(*factor);
                for row in tile.iter_mut() {
                    for pixel in row.iter_mut() {
                        for value in pixel.iter_mut() {
                            *value = simd.mul(*value, factor);
                        }
                    }
                }
            }
            Bound::Relu => {
                let zero = simd.splat(0.0);
                for row in tile.iter_mut() {
                    for pixel in row.iter_mut() {
                        for value in pixel.iter_mut() {
                            *value = simd.max(zero, *value);
                        }
                    }
                }
            }
        }
    }
}
