//! The tables of sizes and what each kernel is compared with.
//!
//! Here is what the tables share: a convolution to compare, and the epilogues with the planes that they add.

mod convs;
mod layers;

use super::reference::Planes;
use super::*;
pub(super) use convs::convs;
pub(super) use layers::{concats, flattens, maps, planes, pools};

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
    /// Blocks of others between the images of every tensor.
    pub(super) gap: usize,
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
            gap: 0,
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
            gap: self.gap,
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
            gap: self.gap,
        }
    }

    /// Expected and found output, laid out.
    pub(super) fn run(
        &self,
        token: Token,
        algorithm: Algorithm,
        threads: &dyn Threads,
    ) -> (Guarded, Vec<f32>) {
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
        let expected = laid_out(&Layout { gap: 0, ..output }, batch, &expected);

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
        let mut found = Guarded::new(output.extent(batch));
        let call = ConvCall {
            batch,
            input: &laid_out(&input, batch, &planes),
            added: &added,
        };
        conv.expect("a convolution that fits")
            .run(threads, call, &mut found);
        (expected, own(&output, &found))
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
