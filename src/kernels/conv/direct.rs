//! Direct convolution: the output plane is cut into tiles, each summed wholly in registers by [`super::tile`].
//!
//! Every output value is summed in the same order whatever the tile, the batch and the number of threads, so equal
//! images give equal bits. Groups need no code of their own here: each output block reads only the input blocks that its
//! groups lie in, and weights between different groups of one block are zeros ([`super::grouped`] wastes none).

use std::ops::Range;

use super::grid::{Grid, Part, Shape};
#[cfg(target_arch = "x86_64")]
use super::matrix::{Matrix, Stretch, Strips, UnitJob};
use super::tile::{self, AHEAD, Job, TileShape, Walk};
use super::units::{Unit, pack};
use super::{ConvCall, ConvParts, ConvSpec};
use crate::kernels::buffer::Buffer;
use crate::kernels::disjoint::{Disjoint, Threads, claim};
use crate::kernels::epilogue::{Bound, Epilogue, Position};
use crate::kernels::isa::Token;
use crate::kernels::layout::{Layout, Plane, View};
use crate::kernels::simd::{Kernel, Simd};

#[derive(Debug)]
pub(super) struct Direct {
    token: Token,
    input: Layout,
    output: Layout,
    plane: Plane,
    walk: Walk,
    input_view: View,
    output_view: View,
    /// Window's first word relative to its pixel's place in the input.
    padding: usize,
    units: Vec<Unit>,
    weights: Buffer,
    epilogue: Epilogue,
    widest: usize,
    #[cfg(target_arch = "x86_64")]
    matrix: Option<Matrix>,
}

impl Direct {
    /// `parts` has been checked.
    pub(super) fn new(parts: ConvParts<'_>) -> Self {
        let ConvParts {
            token,
            spec,
            input,
            output,
            epilogue,
            ..
        } = parts;
        #[cfg(target_arch = "x86_64")]
        let matrix = Matrix::new(token, spec.kernel.1 * input.lanes);
        // strips of the matrix unit run on from row to row by themselves
        #[cfg(target_arch = "x86_64")]
        let flat = matrix.is_none();
        #[cfg(not(target_arch = "x86_64"))]
        let flat = true;
        let widest = token.run(Widest);
        let plane = plane(
            &spec,
            &input,
            &output,
            &epilogue,
            if flat { widest } else { 0 },
        );
        let (input_view, output_view) = (input.view(plane), output.view(plane));
        let (units, weights) = pack(token, &spec, &input, parts.weights);
        Self {
            token,
            input,
            output,
            plane,
            walk: Walk {
                block: input_view.block,
                kernel_rows: spec.kernel.0,
                row: input_view.row,
                run: spec.kernel.1 * input.lanes,
                pixel: input_view.pixel
                    * if plane == Plane::Batch {
                        1
                    } else {
                        spec.stride
                    },
                tile_row: input_view.row * spec.stride,
                out_block: output_view.block,
                out_pixel: output_view.pixel,
                out_row: output_view.row,
                wide: (output.element != token.element()).then(|| output.blocks()),
            },
            padding: spec.padding.0 * input.row() + spec.padding.1 * input.lanes,
            input_view,
            output_view,
            units,
            weights,
            epilogue,
            widest,
            #[cfg(target_arch = "x86_64")]
            matrix,
        }
    }

    pub(super) fn weights(&self) -> &Buffer {
        &self.weights
    }

    /// Output blocks of a unit.
    fn blocks(&self, unit: &Unit) -> Range<usize> {
        let own = self.token.lanes() * self.token.element().packed();
        let vectors = own / self.output.lanes;
        let per_own = own / self.output.per_block();
        let from = unit.block * per_own;
        let to = from + unit.vectors * per_own / vectors;
        from..to.min(self.output.blocks())
    }

    pub(super) fn run(&self, threads: &dyn Threads, call: ConvCall<'_>, output: &mut [f32]) {
        let ConvCall {
            batch,
            input,
            added,
        } = call;
        let operations = self.epilogue.bind(self.plane, batch, added);
        let grid = self.grid(threads.count(), batch);
        let output = Disjoint::new(output);
        claim(threads, grid.tasks(), |task| {
            self.token.run(Task {
                conv: self,
                part: grid.part(task),
                grid: &grid,
                input,
                operations: &operations,
                output: &output,
            });
        });
    }

    /// Cuts one call into tasks.
    fn grid(&self, threads: usize, batch: usize) -> Grid {
        let (rows, width, images) = match self.plane {
            Plane::Image => (self.output.height, self.output.width, batch),
            Plane::Flat => (1, self.output.height * self.output.width, batch),
            Plane::Batch => (1, batch, 1),
        };
        let unit = &self.units[0];
        Grid::new(Shape {
            rows,
            width,
            images,
            widest: self.widest,
            units: self.units.len(),
            flat: self.plane != Plane::Image,
            unit_weights: self.weights.len() / self.units.len(),
            line_input: unit.input_blocks
                * match self.plane {
                    Plane::Image => self.walk.tile_row,
                    Plane::Flat | Plane::Batch => width * self.input.lanes,
                },
            threads,
        })
    }
}

/// One band of one image for one group of units.
struct Task<'a> {
    conv: &'a Direct,
    part: Part,
    grid: &'a Grid,
    input: &'a [f32],
    operations: &'a [Bound<'a>],
    output: &'a Disjoint<'a>,
}

impl Kernel for Task<'_> {
    type Output = ();

    /// Plain loops; each tile enters the instruction set by itself.
    fn run<S: Simd>(self, simd: S) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this task's alone, and it runs no other meanwhile.
        if let Some(strips) = unsafe { self.strips() } {
            for index in self.part.units.clone() {
                self.zero_borders(&self.conv.units[index]);
            }
            let jobs = self.part.units.clone().map(|index| self.unit_job(index));
            // SAFETY: the matrix unit's token runs this with its vectors; the stretches lie in this task's lines and units,
            // which no other task writes; the units' weights are packed for the walk; the rest as below.
            unsafe { strips.run(simd, jobs) };
            return;
        }
        let tiles = self.grid.tiles(&self.part.lines).count();
        for index in self.part.units.clone() {
            let unit = &self.conv.units[index];
            self.zero_borders(unit);
            let next = self.conv.units.get(index + 1);
            for (i, place) in self.grid.tiles(&self.part.lines).enumerate() {
                let shape = TileShape {
                    vectors: unit.vectors,
                    ..place.shape
                };
                let mut job = self.job(unit, place.row, place.pixel);
                if let (1.., Some(next)) = (i, next) {
                    // the other tiles together fetch what the next unit begins with
                    let steps = next.steps(&self.conv.walk);
                    job.ahead_step =
                        (size_of::<f32>() * unit.vectors * S::LANES).div_ceil(tiles - 1);
                    job.ahead = self.conv.weights[next.weights..]
                        .as_ptr()
                        .wrapping_byte_add((i - 1) * steps * job.ahead_step);
                }
                // SAFETY: the tile lies in this task's lines and units, which no other task writes; `Conv::new` checked
                // that windows stay inside the input's border and that the epilogue fits the output, `Conv::run` that
                // the slices hold the batch.
                unsafe { tile::run(simd, shape, &job) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Task<'_> {
    /// This task's pixels for the matrix unit, where the convolution uses it.
    ///
    /// # Safety
    /// No other `Strips` lives on this thread until these are dropped.
    unsafe fn strips(&self) -> Option<Strips> {
        let matrix = self.conv.matrix.as_ref()?;
        let (rows, stretch) = self.stretches();
        // SAFETY: the caller's.
        unsafe { matrix.strips(rows.map(|row| Stretch { row, ..stretch })) }
    }

    /// This task's pixels as stretches that are alike but for their rows.
    fn stretches(&self) -> (Range<usize>, Stretch) {
        let (conv, lines) = (self.conv, &self.part.lines);
        let rows = self.grid.rows(lines);
        let row = Stretch {
            row: rows.start,
            pixel: 0,
            len: conv.output.width,
            pitch: usize::MAX,
            width: conv.output.width,
        };
        if conv.plane != Plane::Image {
            let pixels = self.grid.pixels(lines);
            let stretch = Stretch {
                pixel: pixels.start,
                len: pixels.len(),
                width: pixels.end,
                ..row
            };
            (0..1, stretch)
        } else if conv.walk.tile_row == conv.input_view.row {
            let pitch = conv.input_view.row / conv.input_view.pixel;
            let len = (rows.len() - 1) * pitch + row.len;
            (rows.start..rows.start + 1, Stretch { len, pitch, ..row })
        } else {
            (rows, row)
        }
    }

    fn unit_job(&self, index: usize) -> UnitJob<'_> {
        let unit = &self.conv.units[index];
        let next = self.conv.units.get(index + 1).unwrap_or(unit);
        let job = self.job(unit, 0, 0);
        UnitJob {
            walk: job.walk,
            operations: job.operations,
            blocks: job.blocks,
            input: job.input,
            weights: job.weights,
            next: self.conv.weights.as_ptr().wrapping_add(next.weights),
            output: job.output,
            image: self.part.image,
            block: unit.block,
        }
    }
}

impl Task<'_> {
    fn job(&self, unit: &Unit, row: usize, pixel: usize) -> Job<'_> {
        let (conv, image) = (self.conv, self.part.image);
        let (from, to) = (&conv.input_view, &conv.output_view);
        let input = from.origin
            + image * from.image
            + unit.input_block * from.block
            + row * conv.walk.tile_row
            + pixel * conv.walk.pixel
            - conv.padding;
        let output = to.origin
            + image * to.image
            + conv.blocks(unit).start * to.block
            + row * to.row
            + pixel * to.pixel;
        let weights = conv.weights.as_ptr().wrapping_add(unit.weights);
        Job {
            walk: &conv.walk,
            operations: self.operations,
            blocks: unit.input_blocks,
            input: self.input.as_ptr().wrapping_add(input),
            weights,
            ahead: weights.wrapping_add(AHEAD * unit.vectors * conv.output.lanes),
            ahead_step: size_of::<f32>() * unit.vectors * conv.output.lanes,
            output: self.output.start().wrapping_add(output),
            at: Position {
                image,
                block: unit.block,
                row,
                pixel,
            },
        }
    }

    fn zero_borders(&self, unit: &Unit) {
        let (conv, part) = (self.conv, &self.part);
        // a border rules out the planes whose rows are not the image's
        let rows = self.grid.rows(&part.lines);
        // SAFETY: the padded rows of this task's band and unit, which no other task touches.
        unsafe {
            let blocks = conv.blocks(unit);
            conv.output
                .zero_band(self.output, part.image, blocks, &rows);
        }
    }
}

/// The instruction set's widest tile.
pub(super) struct Widest;

impl Kernel for Widest {
    type Output = usize;

    fn run<S: Simd>(self, _: S) -> usize {
        S::PIXELS
    }
}

/// The plane with the longest rows that the layouts allow.
fn plane(
    spec: &ConvSpec,
    input: &Layout,
    output: &Layout,
    epilogue: &Epilogue,
    widest: usize,
) -> Plane {
    let all = |plane| input.allows(plane) && output.allows(plane) && epilogue.allows(plane);
    let pointwise = spec.kernel == (1, 1) && spec.padding == (0, 0);
    if pointwise && all(Plane::Batch) {
        Plane::Batch
    } else if pointwise && spec.stride == 1 && output.width < widest && all(Plane::Flat) {
        Plane::Flat
    } else {
        Plane::Image
    }
}
