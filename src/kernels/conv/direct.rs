//! Direct convolution: the output plane is cut into tiles, each summed wholly in registers by [`super::tile`].
//!
//! Every output value is summed in the same order whatever the tile, the batch and the number of threads, so equal
//! images give equal bits. Groups need no code of their own: each output block reads only the input blocks that its
//! groups lie in, and weights between different groups of one block are zeros.

use super::tile::{self, Job, TileShape, Walk};
use super::{ConvCall, ConvParts, ConvSpec};
use crate::kernels::buffer::Buffer;
use crate::kernels::disjoint::{Disjoint, Threads, claim};
use crate::kernels::epilogue::{Bound, Epilogue, Position};
use crate::kernels::isa::Token;
use crate::kernels::layout::{Layout, Plane, View};
use crate::kernels::simd::{Kernel, Simd};

/// Multiply-accumulates of a task: some 40 microseconds of one AVX-512 core.
const TASK_MACS: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Direct {
    token: Token,
    input: Layout,
    output: Layout,
    plane: Plane,
    walk: Walk,
    input_view: View,
    output_view: View,
    /// Window's first value relative to its pixel's place in the input.
    padding: usize,
    units: Vec<Unit>,
    weights: Buffer,
    epilogue: Epilogue,
    widest: usize,
}

/// One or two output blocks that read the same input blocks.
#[derive(Clone, Copy, Debug)]
struct Unit {
    block: usize,
    blocks: usize,
    input_block: usize,
    input_blocks: usize,
    /// Where its weights begin.
    weights: usize,
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
        let widest = token.run(Widest);
        let plane = plane(&spec, &input, &output, &epilogue, widest);
        let (input_view, output_view) = (input.view(plane), output.view(plane));
        let (units, weights) = pack(&spec, &input, output.lanes, parts.weights);
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
            },
            padding: spec.padding.0 * input.row() + spec.padding.1 * input.lanes,
            input_view,
            output_view,
            units,
            weights,
            epilogue,
            widest,
        }
    }

    pub(super) fn weights(&self) -> &Buffer {
        &self.weights
    }

    pub(super) fn run(&self, threads: &dyn Threads, call: ConvCall<'_>, output: &mut [f32]) {
        let ConvCall {
            batch,
            input,
            added,
        } = call;
        assert!(
            input.len() >= batch * self.input.image(),
            "the input is too short"
        );
        assert!(
            output.len() >= batch * self.output.image(),
            "the output is too short"
        );
        let operations = self.epilogue.bind(self.plane, batch, added);
        let grid = self.grid(threads.count(), batch);
        let output = Disjoint::new(output);
        claim(threads, grid.tasks(), |task| {
            let (unit, image, band) = grid.place(task);
            self.token.run(Task {
                conv: self,
                unit: self.units[unit],
                image,
                rows: grid.rows(band),
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
        let tiles = width.div_ceil(self.widest);
        let tile_rows = if rows > 1 && 2 * width <= self.widest {
            2
        } else {
            1
        };
        let units = self.units.len();
        let row_macs = width
            * 2
            * self.output.lanes
            * self.units[0].input_blocks
            * self.walk.kernel_rows
            * self.walk.run;
        let enough = (4 * threads).div_ceil(units * images);
        let band = (TASK_MACS / row_macs.max(1)).min(rows / enough).max(1);
        let band = band
            .next_multiple_of(tile_rows)
            .min(rows.next_multiple_of(tile_rows));
        Grid {
            rows,
            width,
            images,
            units,
            tiles,
            tile_rows,
            band,
            // the larger of weights and image is the one to pass over once
            units_first: self.weights.len() > self.input.image(),
        }
    }
}

/// The tasks of one call: output units times images times bands of rows.
struct Grid {
    rows: usize,
    width: usize,
    images: usize,
    units: usize,
    /// Tiles of a row, as even as can be.
    tiles: usize,
    /// Rows of a tile.
    tile_rows: usize,
    /// Rows of a band.
    band: usize,
    units_first: bool,
}

impl Grid {
    fn bands(&self) -> usize {
        self.rows.div_ceil(self.band)
    }

    fn tasks(&self) -> usize {
        self.units * self.images * self.bands()
    }

    /// Unit, image and band of a task; neighbouring tasks share weights or input.
    fn place(&self, task: usize) -> (usize, usize, usize) {
        let bands = self.bands();
        if self.units_first {
            let rest = task % (self.images * bands);
            (task / (self.images * bands), rest / bands, rest % bands)
        } else {
            let rest = task / self.units;
            (task % self.units, rest / bands, rest % bands)
        }
    }

    fn rows(&self, band: usize) -> std::ops::Range<usize> {
        let from = band * self.band;
        from..(from + self.band).min(self.rows)
    }
}

/// One band of one unit of one image.
struct Task<'a> {
    conv: &'a Direct,
    unit: Unit,
    image: usize,
    rows: std::ops::Range<usize>,
    grid: &'a Grid,
    input: &'a [f32],
    operations: &'a [Bound<'a>],
    output: &'a Disjoint<'a>,
}

impl Kernel for Task<'_> {
    type Output = ();

    /// Plain loops; each tile enters the instruction set by itself.
    fn run<S: Simd>(self, simd: S) {
        self.zero_borders();
        let (base, extra) = (
            self.grid.width / self.grid.tiles,
            self.grid.width % self.grid.tiles,
        );
        let mut row = self.rows.start;
        while row < self.rows.end {
            let rows = self.grid.tile_rows.min(self.rows.end - row);
            let mut pixel = 0;
            for i in 0..self.grid.tiles {
                let shape = TileShape {
                    rows,
                    pixels: base + usize::from(i < extra),
                    blocks: self.unit.blocks,
                };
                // SAFETY: the tile lies in this task's rows and unit, which no other task writes; `Conv::new` checked
                // that windows stay inside the input's border and that the epilogue fits the output, `Direct::run` that
                // the slices hold the batch.
                unsafe { tile::run(simd, shape, self.job(row, pixel)) };
                pixel += shape.pixels;
            }
            row += rows;
        }
    }
}

impl Task<'_> {
    fn job(&self, row: usize, pixel: usize) -> Job<'_> {
        let (conv, unit) = (self.conv, &self.unit);
        let (from, to) = (&conv.input_view, &conv.output_view);
        let input = from.origin
            + self.image * from.image
            + unit.input_block * from.block
            + row * conv.walk.tile_row
            + pixel * conv.walk.pixel
            - conv.padding;
        let output = to.origin
            + self.image * to.image
            + unit.block * to.block
            + row * to.row
            + pixel * to.pixel;
        Job {
            walk: &conv.walk,
            operations: self.operations,
            blocks: unit.input_blocks,
            input: self.input.as_ptr().wrapping_add(input),
            weights: conv.weights.as_ptr().wrapping_add(unit.weights),
            output: self.output.start().wrapping_add(output),
            at: Position {
                image: self.image,
                block: unit.block,
                row,
                pixel,
            },
        }
    }

    /// Zeroes the border beside this task's rows, and above or below them at the image's edge.
    fn zero_borders(&self) {
        let layout = &self.conv.output;
        if layout.border == 0 {
            return;
        }
        let from = if self.rows.start == 0 {
            0
        } else {
            self.rows.start + layout.border
        };
        let to = self.rows.end
            + if self.rows.end == self.grid.rows {
                2
            } else {
                1
            } * layout.border;
        for block in self.unit.block..self.unit.block + self.unit.blocks {
            let start = self.image * layout.image() + block * layout.block();
            // SAFETY: the padded rows of this task's band, which no other task touches; a border rules out the planes
            // whose rows are not the image's.
            let rows = unsafe {
                self.output
                    .region(start + from * layout.row(), (to - from) * layout.row())
            };
            layout.zero_border(rows, from);
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

/// Units and their weights as `[unit][input block][kernel row][kernel column][input lane][output block][lane]`.
fn pack(spec: &ConvSpec, input: &Layout, lanes: usize, weights: &[f32]) -> (Vec<Unit>, Buffer) {
    let mut units = units(spec, input, lanes);
    let taps = spec.kernel.0 * spec.kernel.1;
    let mut total = 0;
    for unit in &mut units {
        unit.weights = total;
        total += unit.input_blocks * taps * input.lanes * unit.blocks * lanes;
    }
    let mut packed = Buffer::zeroed(total);
    let (group_inputs, group_outputs) = (spec.group_inputs(), spec.out_channels / spec.groups);
    for unit in &units {
        let mut at = unit.weights;
        for block in unit.input_block..unit.input_block + unit.input_blocks {
            for tap in 0..taps {
                for lane in 0..input.lanes {
                    let from = block * input.lanes + lane;
                    let first = unit.block * lanes;
                    for to in first..first + unit.blocks * lanes {
                        let group = to / group_outputs;
                        if to < spec.out_channels
                            && from / group_inputs == group
                            && from < spec.in_channels
                        {
                            let from = from - group * group_inputs;
                            packed[at] = weights[(to * group_inputs + from) * taps + tap];
                        }
                        at += 1;
                    }
                }
            }
        }
    }
    (units, packed)
}

/// Pairs of neighbouring output blocks that read the same input blocks; the others alone.
fn units(spec: &ConvSpec, input: &Layout, lanes: usize) -> Vec<Unit> {
    let group_outputs = spec.out_channels / spec.groups;
    let reads = |block: usize| {
        let last = ((block + 1) * lanes).min(spec.out_channels) - 1;
        let (first_group, last_group) = (block * lanes / group_outputs, last / group_outputs);
        let from = first_group * spec.group_inputs() / input.lanes;
        let to = ((last_group + 1) * spec.group_inputs()).div_ceil(input.lanes);
        (from, to - from)
    };
    let blocks = spec.out_channels.div_ceil(lanes);
    let mut units = Vec::new();
    let mut block = 0;
    while block < blocks {
        let (input_block, input_blocks) = reads(block);
        let pair = block + 1 < blocks && reads(block + 1) == (input_block, input_blocks);
        units.push(Unit {
            block,
            blocks: 1 + usize::from(pair),
            input_block,
            input_blocks,
            weights: 0,
        });
        block += 1 + usize::from(pair);
    }
    units
}
