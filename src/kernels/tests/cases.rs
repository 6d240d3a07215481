//! The tables of sizes and what each kernel is compared with.

use super::reference::Planes;
use super::*;

/// Tile sizes of any instruction set here; cases lie around each.
const TILES: [usize; 4] = [3, 6, 7, 14];

/// One convolution to compare.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvCase {
    pub(super) batch: usize,
    pub(super) spec: ConvSpec,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Beyond what the padding needs.
    pub(super) spare_border: usize,
    pub(super) out_border: usize,
    /// Whether the input keeps all its channels in one block.
    pub(super) narrow: bool,
    /// Whether the output is f32 whatever the kernel's own element is.
    pub(super) wide: bool,
    /// Index into [`epilogues`].
    pub(super) epilogue: usize,
}

impl ConvCase {
    /// A square stride and padding that keeps the size at stride 1.
    pub(super) fn new(
        kernel: (usize, usize),
        stride: usize,
        groups: usize,
        channels: (usize, usize),
        (height, width): (usize, usize),
    ) -> Self {
        Self {
            batch: 1,
            spec: ConvSpec {
                in_channels: channels.0,
                out_channels: channels.1,
                kernel,
                stride,
                padding: (kernel.0 / 2, kernel.1 / 2),
                groups,
            },
            height,
            width,
            spare_border: 0,
            out_border: 0,
            narrow: false,
            wide: false,
            epilogue: 0,
        }
    }

    pub(super) fn input(&self, token: Token) -> Layout {
        Layout {
            channels: self.spec.in_channels,
            height: self.height,
            width: self.width,
            element: token.element(),
            lanes: if self.narrow {
                self.spec.in_channels.div_ceil(token.element().packed())
            } else {
                token.lanes()
            },
            border: self.spec.padding.0.max(self.spec.padding.1) + self.spare_border,
        }
    }

    pub(super) fn output(&self, token: Token) -> Layout {
        let (height, width) = self.spec.output_size(self.height, self.width);
        Layout {
            channels: self.spec.out_channels,
            height,
            width,
            element: if self.wide {
                Element::F32
            } else {
                token.element()
            },
            lanes: token.lanes(),
            border: self.out_border,
        }
    }

    /// Expected and found output, laid out.
    pub(super) fn run(
        &self,
        token: Token,
        algorithm: Algorithm,
        threads: &dyn Threads,
    ) -> (Guarded, Guarded) {
        let (spec, batch) = (self.spec, self.batch);
        let (input, output) = (self.input(token), self.output(token));
        let size = Planes {
            channels: spec.in_channels,
            height: self.height,
            width: self.width,
        };
        let planes = held(token, 1, batch * size.len());
        let weights = held(token, 2, spec.macs_per_pixel());
        let out_size = sized(&output);
        let (epilogue, added) = epilogues(token, &output, batch).swap_remove(self.epilogue);
        let mut expected = reference::conv(&spec, batch, size, &planes, &weights);
        reference::epilogue(
            epilogue.operations(),
            batch,
            out_size,
            &mut expected,
            &added,
        );
        let expected = laid_out(&output, batch, &expected);

        let added = lay_out_added(&epilogue, batch, &added);
        let added: Vec<&[f32]> = added.iter().map(|a| &a[..]).collect();
        let conv = Conv::new(ConvParts {
            token,
            algorithm,
            spec,
            input,
            output,
            weights: &weights,
            epilogue,
        });
        let mut found = Guarded::new(batch * output.image());
        let call = ConvCall {
            batch,
            input: &laid_out(&input, batch, &planes),
            added: &added,
        };
        conv.expect("a convolution that fits")
            .run(threads, call, &mut found);
        (expected, found)
    }

    pub(super) fn suits(&self, token: Token, algorithm: Algorithm) -> bool {
        let whole = !self.narrow && token.element() == Element::F32;
        algorithm.supports(&self.spec) && (algorithm == Algorithm::Direct || whole)
    }

    pub(super) fn check(&self, token: Token, algorithm: Algorithm) {
        let (expected, found) = self.run(token, algorithm, &Serial);
        let element = self.output(token).element;
        let tolerance = match algorithm {
            Algorithm::Direct | Algorithm::Grouped => 3e-6,
            Algorithm::Winograd4 => 1e-5,
            Algorithm::Winograd6 => 3e-5,
        };
        let what = (token.isa(), element, algorithm, self);
        assert_close(element, &found, &expected, tolerance, &what);
    }
}

fn sized(layout: &Layout) -> Planes {
    Planes {
        channels: layout.channels,
        height: layout.height,
        width: layout.width,
    }
}

/// Every operation, alone and in the orders that graphs make; with the planes to add.
fn epilogues(token: Token, output: &Layout, batch: usize) -> Vec<(Epilogue, Vec<Vec<f32>>)> {
    let list = |seed| Buffer::padded(&values(seed, output.channels), output.listed());
    let bias = || Operation::Bias(list(11));
    let affine = || Operation::Affine {
        scale: list(12),
        shift: list(13),
    };
    let add = |border| Operation::Add(Layout { border, ..*output });
    use Operation::{Relu, Scale};
    let lists = vec![
        vec![],
        vec![bias()],
        vec![bias(), Relu],
        vec![bias(), add(0), Relu],
        vec![bias(), add(2)],
        vec![affine(), Relu],
        vec![add(0), affine(), Relu],
        vec![Relu, add(1), Scale(0.5)],
        vec![Scale(-1.5), bias(), Relu, add(0), add(1), affine()],
    ];
    let with_planes = |operations: Vec<Operation>| {
        let adds = operations
            .iter()
            .filter(|o| matches!(o, Operation::Add(_)))
            .count();
        let planes = (0..adds as u64).map(|i| held(token, 20 + i, batch * sized(output).len()));
        (Epilogue::new(operations), planes.collect())
    };
    lists.into_iter().map(with_planes).collect()
}

pub(super) const EPILOGUES: usize = 9;

fn lay_out_added(epilogue: &Epilogue, batch: usize, planes: &[Vec<f32>]) -> Vec<Guarded> {
    let layouts = epilogue
        .operations()
        .iter()
        .filter_map(|operation| match operation {
            Operation::Add(layout) => Some(layout),
            _ => None,
        });
    layouts
        .zip(planes)
        .map(|(layout, planes)| laid_out(layout, batch, planes))
        .collect()
}

/// Convolutions around each tile edge and with every feature; those that the algorithm supports.
pub(super) fn convs(token: Token, algorithm: Algorithm) -> usize {
    let lanes = token.lanes();
    let mut cases = Vec::new();
    let mut add = |kernel, stride, groups, channels, size| {
        cases.push(ConvCase::new(kernel, stride, groups, channels, size))
    };
    // widths and heights around the tiles
    for tile in TILES {
        for size in [tile - 1, tile, tile + 1, 2 * tile, 2 * tile + 1] {
            add((1, 1), 1, 1, (lanes, 2 * lanes), (3, size));
            add((3, 3), 1, 1, (lanes, 2 * lanes), (size, size));
            add((3, 3), 2, 1, (lanes, lanes), (size, 2 * size));
        }
    }
    // channels around a block, and the blocks of a tile
    for inputs in [1, lanes - 1, lanes, lanes + 1, 3 * lanes] {
        for outputs in [1, lanes - 1, lanes, lanes + 1, 2 * lanes, 3 * lanes + 1] {
            add((3, 3), 1, 1, (inputs, outputs), (5, 6));
            add((1, 1), 1, 1, (inputs, outputs), (1, 1));
        }
    }
    for kernel in [
        (1, 1),
        (2, 3),
        (3, 3),
        (5, 5),
        (7, 7),
        (1, 7),
        (7, 1),
        (11, 11),
    ] {
        for stride in [1, 2, 3, 4] {
            add(kernel, stride, 1, (lanes + 2, lanes + 3), (13, 15));
        }
    }
    for per_group in [1, 2, 3, 4, 6, 8, 16, 32] {
        for groups in [2, 5, 8] {
            add(
                (3, 3),
                1,
                groups,
                (groups * per_group, groups * per_group),
                (5, 7),
            );
            add((3, 3), 2, groups, (groups * per_group, groups * 3), (6, 5));
        }
    }
    // groups inside a block, around the strips and with bands of several rows
    for per_group in [1, 2, 4, 8] {
        for (stride, widest) in [(1, 14), (2, 10), (1, 6), (2, 6), (1, 3), (2, 3)] {
            for width in [1, widest - 1, widest, widest + 1, 2 * widest + 1] {
                let channels = 2 * lanes + 8;
                let size = (width / 2 + 3, stride * width);
                let groups = channels / per_group;
                add((3, 3), stride, groups, (channels, channels), size);
            }
        }
    }
    let plain = cases.clone();
    for (i, case) in plain.iter().enumerate() {
        // what else a case can have, in turn
        cases.push(ConvCase {
            batch: 1 + i % 3,
            spare_border: i % 2,
            out_border: (i / 2) % 3,
            epilogue: i % EPILOGUES,
            ..*case
        });
    }
    // stems: the image's own channels innermost
    for (channels, kernel, stride) in [(3, 7, 2), (3, 3, 1), (1, 5, 2), (4, 11, 4), (3, 3, 2)] {
        for width in [9, 27, 28, 29, 64] {
            cases.push(ConvCase {
                narrow: true,
                batch: 2,
                epilogue: 2,
                out_border: 1,
                ..ConvCase::new(
                    (kernel, kernel),
                    stride,
                    1,
                    (channels, 2 * lanes),
                    (11, width),
                )
            });
        }
    }
    if token.element() != Element::F32 {
        // logits: a block's last vector may be one too many
        for outputs in [1, lanes, lanes + 1, 3 * lanes] {
            for (batch, size) in [(1, (1, 1)), (17, (1, 1)), (2, (3, 5))] {
                cases.push(ConvCase {
                    wide: true,
                    batch,
                    epilogue: 2,
                    ..ConvCase::new((1, 1), 1, 1, (3 * lanes, outputs), size)
                });
            }
        }
    }
    cases.retain(|case| case.suits(token, algorithm));
    cases.iter().for_each(|case| case.check(token, algorithm));
    cases.len()
}

pub(super) fn maps(token: Token) -> usize {
    let lanes = token.lanes();
    let mut count = 0;
    for (channels, extra) in [(1, 0), (lanes, 0), (lanes + 1, 3), (2 * lanes, 2 * lanes)] {
        for (height, width) in [(1, 1), (4, 3), (3, 5), (5, 9)] {
            for stride in [1, 2, 3] {
                for index in 0..EPILOGUES {
                    map(token, (channels, extra), (height, width), stride, index);
                    count += 1;
                }
            }
        }
    }
    count
}

fn map(
    token: Token,
    (channels, extra): (usize, usize),
    (height, width): (usize, usize),
    stride: usize,
    index: usize,
) {
    let batch = 2;
    let input = Layout {
        channels,
        height,
        width,
        element: token.element(),
        lanes: token.lanes(),
        border: index % 2,
    };
    let output = Layout {
        channels: channels + extra,
        height: height.div_ceil(stride),
        width: width.div_ceil(stride),
        border: index % 3,
        ..input
    };
    let planes = held(token, 3, batch * sized(&input).len());
    let (epilogue, added) = epilogues(token, &output, batch).swap_remove(index);
    let mut expected = Vec::new();
    for image in 0..batch {
        for channel in 0..output.channels {
            for y in 0..output.height {
                for x in 0..output.width {
                    let at =
                        ((image * channels + channel) * height + y * stride) * width + x * stride;
                    expected.push(if channel < channels { planes[at] } else { 0.0 });
                }
            }
        }
    }
    reference::epilogue(
        epilogue.operations(),
        batch,
        sized(&output),
        &mut expected,
        &added,
    );
    let added = lay_out_added(&epilogue, batch, &added);
    let added: Vec<&[f32]> = added.iter().map(|a| &a[..]).collect();
    let map = Map::new(token, input, output, stride, epilogue).expect("a map that fits");
    let mut found = Guarded::new(batch * output.image());
    map.run(
        &Serial,
        batch,
        &laid_out(&input, batch, &planes),
        &added,
        &mut found,
    );
    let expected = laid_out(&output, batch, &expected);
    let element = output.element;
    assert_close(element, &found, &expected, 1e-6, &map);
}

pub(super) fn pools(token: Token) -> usize {
    let mut count = 0;
    for (kernel, stride, padding) in [
        (1, 1, 0),
        (2, 2, 0),
        (3, 2, 1),
        (3, 1, 1),
        (3, 3, 1),
        (5, 3, 2),
    ] {
        for (height, width) in [(5, 5), (6, 9), (7, 13)] {
            let windows = |size: usize, counts| {
                let n = (size + 2 * padding - kernel) / stride + 1;
                // a last partial window where one would start inside the image
                let partial = usize::from(n * stride < size + padding);
                Window::sliding(size, n + partial, (kernel, stride, padding), counts)
            };
            for (reduce, counts) in [
                (Reduce::Max, false),
                (Reduce::Average, false),
                (Reduce::Average, true),
            ] {
                let (rows, columns) = (windows(height, counts), windows(width, counts));
                pool(
                    token,
                    (height, width),
                    PoolSpec {
                        reduce,
                        rows,
                        columns,
                    },
                );
                count += 1;
            }
        }
    }
    for (height, width, rows, columns) in [(7, 7, 1, 1), (9, 11, 4, 3), (1, 1, 1, 1), (5, 6, 6, 7)]
    {
        let spec = PoolSpec {
            reduce: Reduce::Average,
            rows: Window::adaptive(height, rows),
            columns: Window::adaptive(width, columns),
        };
        pool(token, (height, width), spec);
        count += 1;
    }
    count
}

fn pool(token: Token, (height, width): (usize, usize), spec: PoolSpec) {
    let batch = 2;
    for channels in [1, token.lanes(), token.lanes() + 1] {
        let input = Layout {
            channels,
            height,
            width,
            element: token.element(),
            lanes: token.lanes(),
            border: channels % 3,
        };
        let output = Layout {
            height: spec.rows.len(),
            width: spec.columns.len(),
            border: height % 2,
            ..input
        };
        let planes = held(token, 4, batch * sized(&input).len());
        let expected = reference::pool(&spec, batch, sized(&input), &planes);
        let pool = Pool::new(token, spec.clone(), input, output).expect("a pool that fits");
        let mut found = Guarded::new(batch * output.image());
        pool.run(
            &Serial,
            batch,
            &laid_out(&input, batch, &planes),
            &mut found,
        );
        let expected = laid_out(&output, batch, &expected);
        let element = output.element;
        assert_close(element, &found, &expected, 1e-6, &pool);
    }
}

/// There and back, and the place of every value there.
pub(super) fn planes(token: Token) -> usize {
    let mut count = 0;
    for channels in [1, 3, token.lanes(), 2 * token.lanes() + 1] {
        let element = token.element();
        for lanes in [token.lanes(), channels.div_ceil(element.packed())] {
            for border in [0, 2] {
                let layout = Layout {
                    channels,
                    height: 3,
                    width: 4,
                    element,
                    lanes,
                    border,
                };
                let planes = held(token, 5, 2 * sized(&layout).len());
                let laid = laid_out(&layout, 2, &planes);
                let held = unpacked(element, &laid);
                assert_eq!(held.filter(|v| *v != 0.0).count(), planes.len());
                let (channel, y, x) = (channels - 1, 2, 1);
                let pixel =
                    channel / layout.per_block() * layout.block() + layout.row_start(y) + x * lanes;
                let words = &laid[layout.image() + pixel..][..lanes];
                assert_eq!(
                    element.get(words, channel % layout.per_block()),
                    planes[((channels + channel) * 3 + y) * 4 + x]
                );
                let stride = sized(&layout).len() + 3;
                let mut back = Guarded::new(2 * stride);
                to_planes(&Serial, &layout, 2, &laid, stride, &mut back);
                for (image, values) in back.chunks(stride).enumerate() {
                    assert_eq!(
                        values[..stride - 3],
                        planes[image * (stride - 3)..][..stride - 3]
                    );
                    assert_eq!(values[stride - 3..], [0.0; 3]);
                }
                count += 1;
            }
        }
    }
    count
}

pub(super) fn concats(token: Token) -> usize {
    let lanes = token.lanes();
    let mut count = 0;
    for channels in [
        vec![1],
        vec![lanes, lanes],
        vec![3, 5],
        vec![lanes - 1, lanes + 2, 1],
        vec![2 * lanes, 7, lanes],
        vec![lanes / 2, lanes / 2, 3 * lanes],
    ] {
        let layout = |channels, border| Layout {
            channels,
            height: 3,
            width: 2,
            element: token.element(),
            lanes,
            border,
        };
        let output = layout(channels.iter().sum(), 1);
        let batch = 2;
        let parts: Vec<(Layout, Vec<f32>)> = channels
            .iter()
            .enumerate()
            .map(|(i, &c)| (layout(c, i % 2), held(token, i as u64, batch * c * 6)))
            .collect();
        let mut expected = Vec::new();
        for image in 0..batch {
            for (layout, planes) in &parts {
                let len = layout.channels * 6;
                expected.extend_from_slice(&planes[image * len..(image + 1) * len]);
            }
        }
        let laid: Vec<(Layout, Guarded)> = parts
            .iter()
            .map(|(l, p)| (*l, laid_out(l, batch, p)))
            .collect();
        let inputs: Vec<(Layout, &[f32])> = laid.iter().map(|(l, data)| (*l, &data[..])).collect();
        let mut found = Guarded::new(batch * output.image());
        concat(&Serial, batch, &inputs, &output, &mut found);
        let bits = |words: &[f32]| words.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        assert_eq!(
            bits(&found),
            bits(&laid_out(&output, batch, &expected)),
            "{channels:?}"
        );
        count += 1;
    }
    count
}

/// Every value of an image becomes a channel of one pixel.
pub(super) fn flattens(token: Token) -> usize {
    let mut count = 0;
    for channels in [1, 3, token.lanes(), 2 * token.lanes() + 1] {
        for (height, width, border) in [(1, 1, 0), (2, 3, 1), (7, 7, 0)] {
            let from = Layout {
                channels,
                height,
                width,
                element: token.element(),
                lanes: token.lanes(),
                border,
            };
            let to = Layout {
                channels: channels * height * width,
                height: 1,
                width: 1,
                border: 0,
                ..from
            };
            let planes = held(token, 6, 2 * sized(&from).len());
            let mut found = Guarded::new(2 * to.image());
            let input = laid_out(&from, 2, &planes);
            flatten(&Serial, &from, 2, &input, &to, &mut found);
            let expected = laid_out(&to, 2, &planes);
            assert_close(to.element, &found, &expected, 0.0, &from);
            count += 1;
        }
    }
    count
}
