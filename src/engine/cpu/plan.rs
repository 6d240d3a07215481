//! The plan of one network on one instruction set: a place for each value ([`super::place`]), a prepared kernel for each
//! layer. Weights are packed here and the originals dropped.

use std::collections::BTreeSet;

use super::buckets::Buckets;
use super::choose;
use super::lower;
use super::place::{self, Place, Placement};
use crate::engine::EngineError;
use crate::engine::passes::{Fused, Layer, LayerOp};
use crate::ir::Graph;
use crate::kernels::{Buffer, Conv, ConvParts, Epilogue, Map, Misfit, Operation, Pool, Token};
use crate::weights::Parameters;

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// Values of one image that each buffer must hold.
    pub(super) buffers: Vec<usize>,
}

/// One layer, ready to run.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) kernel: Kernel,
    pub(super) inputs: Vec<Place>,
    /// What the epilogue adds, in order.
    pub(super) added: Vec<Place>,
    pub(super) output: Place,
    pub(super) name: String,
    /// Multiply-accumulates for one image.
    pub(super) macs: usize,
}

#[derive(Debug)]
pub(super) enum Kernel {
    Image,
    Conv(Box<Buckets>),
    Pool(Pool),
    Map(Map),
    /// Of inputs that are not in their place already, with the channel where each begins.
    Concat(Vec<usize>),
    Flatten,
}

impl Plan {
    /// # Errors
    /// When a parameter is missing or the graph's shapes contradict each other.
    pub(super) fn new(
        graph: &Graph,
        mut parameters: Parameters,
        token: Token,
    ) -> Result<Self, EngineError> {
        let layers = lower(graph, &mut parameters)?;
        let Placement { places, buffers } = place::place(&layers, token);
        let mut steps = Vec::with_capacity(layers.len());
        let last = layers.len().saturating_sub(1);
        for (index, layer) in layers.into_iter().enumerate() {
            let step = step(layer, places[index], &places, token)?;
            // what every input has been written into needs no step of its own, but for the logits to be found
            if index == last || !step.is_done() {
                steps.push(step);
            }
        }
        Ok(Self { steps, buffers })
    }

    /// The batch sizes from which on a layer is computed in another way, and 1; ascending.
    pub(super) fn buckets(&self) -> BTreeSet<usize> {
        let starts = self.steps.iter().filter_map(|step| match &step.kernel {
            Kernel::Conv(conv) => Some(conv.starts()),
            _ => None,
        });
        starts.flatten().chain([1]).collect()
    }
}

impl Step {
    /// Whether there is nothing to do.
    fn is_done(&self) -> bool {
        matches!(&self.kernel, Kernel::Concat(firsts) if firsts.is_empty())
    }
}

impl Kernel {
    /// Values of its packed weights.
    pub(super) fn weights(&self) -> usize {
        match self {
            Self::Conv(conv) => conv.packed_len(),
            Self::Image | Self::Pool(_) | Self::Map(_) | Self::Concat(_) | Self::Flatten => 0,
        }
    }

    /// What runs on a batch of that size, for profiles.
    pub(super) fn name(&self, batch: usize) -> &'static str {
        match self {
            Self::Image => "layout",
            Self::Conv(conv) => conv.of(batch).algorithm().name(),
            Self::Pool(_) => "pool",
            Self::Map(_) => "element-wise",
            Self::Concat(_) => "concat",
            Self::Flatten => "flatten",
        }
    }
}

fn step(layer: Layer, output: Place, places: &[Place], token: Token) -> Result<Step, EngineError> {
    let mut inputs: Vec<Place> = layer.inputs.iter().map(|&i| places[i]).collect();
    let mut added = Vec::new();
    let to = output.layout;
    let operations = layer.epilogue.into_iter().map(|operation| {
        let padded = |values: &[f32]| Buffer::padded(values, to.listed());
        match operation {
            Fused::Bias(bias) => Operation::Bias(padded(&bias)),
            Fused::Affine { scale, shift } => Operation::Affine {
                scale: padded(&scale),
                shift: padded(&shift),
            },
            Fused::Add(value) => {
                added.push(places[value]);
                Operation::Add(places[value].layout)
            }
            Fused::Scale(factor) => Operation::Scale(factor),
            Fused::Relu => Operation::Relu,
        }
    });
    let epilogue = Epilogue::new(operations.collect());
    let input = inputs.first().map(|place| place.layout);
    let mut macs = 0;
    let misfit = |error: Misfit| EngineError::Device(format!("layer {}: {error}", layer.name));
    let kernel = match (layer.op, input) {
        (LayerOp::Image, _) => Kernel::Image,
        (LayerOp::Concat, _) => {
            let mut first = 0;
            let mut firsts = Vec::new();
            inputs.retain(|input| {
                let channel = first;
                first += input.layout.channels;
                let copied = input.buffer != output.buffer;
                if copied {
                    firsts.push(channel);
                }
                copied
            });
            Kernel::Concat(firsts)
        }
        (LayerOp::Flatten, Some(_)) => Kernel::Flatten,
        (LayerOp::Conv { spec, weights }, Some(input)) => {
            macs = spec.macs_per_pixel() * to.height * to.width;
            let make = |algorithm| {
                Conv::new(ConvParts {
                    token,
                    algorithm,
                    spec,
                    input,
                    output: to,
                    weights: &weights,
                    epilogue: epilogue.clone(),
                })
            };
            let choices = choose::algorithms(token, &spec, &input);
            let buckets = Buckets::new(choices, make).map_err(misfit)?;
            Kernel::Conv(Box::new(buckets))
        }
        (LayerOp::Pool(spec), Some(input)) => {
            Kernel::Pool(Pool::new(token, spec, input, to).map_err(misfit)?)
        }
        (LayerOp::Map { stride }, Some(input)) => {
            Kernel::Map(Map::new(token, input, to, stride, epilogue).map_err(misfit)?)
        }
        (
            LayerOp::Conv { .. } | LayerOp::Pool(_) | LayerOp::Map { .. } | LayerOp::Flatten,
            None,
        ) => {
            return Err(EngineError::Device(format!(
                "layer {} has no input",
                layer.name
            )));
        }
    };
    Ok(Step {
        kernel,
        inputs,
        added,
        output,
        name: layer.name,
        macs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, NodeId, Shape};
    use crate::kernels::{Element, Isa};
    use crate::weights::Generator;

    fn plan(build: impl Fn(&mut Builder, NodeId)) -> Plan {
        plan_for(Token::detect(None), Shape::new(3, 16, 16), build)
    }

    fn plan_for(token: Token, input: Shape, build: impl Fn(&mut Builder, NodeId)) -> Plan {
        let (mut b, x) = Builder::new(input);
        build(&mut b, x);
        let graph = b.finish().expect("a graph");
        let source = Generator::new(&graph, 3, [0.5, 0.9]);
        let parameters = Parameters::load(&graph, &source).expect("generated weights");
        Plan::new(&graph, parameters, token).expect("a plan")
    }

    #[test]
    fn buckets_are_those_of_all_layers() {
        for token in Token::available() {
            let at = |channels, size| {
                let input = Shape::new(channels, size, size);
                let conv = |b: &mut Builder, x| {
                    b.conv("conv", x, channels, 3, 1);
                };
                Vec::from_iter(plan_for(token, input, conv).buckets())
            };
            // lines of algorithms.txt
            let (small, other) = match (token.isa(), token.element()) {
                (Isa::Avx512, Element::F32) => (vec![1, 4], vec![1, 2]),
                _ => (vec![1], vec![1]),
            };
            assert_eq!((at(512, 7), at(640, 8)), (small, other), "{token:?}");
        }
    }

    /// Three residual blocks, a value that stays alive over all of them, and their concatenation.
    fn blocks(b: &mut Builder, x: NodeId) {
        let early = b.conv("stem", x, 32, 3, 1);
        let mut x = early;
        for i in 0..3 {
            let y = b.conv(&format!("a{i}"), x, 8, 1, 1);
            let y = b.conv(&format!("b{i}"), y, 8, 3, 1);
            let y = b.conv(&format!("c{i}"), y, 32, 1, 1);
            x = b.add(y, x);
        }
        b.layer("", crate::ir::Op::Concat, &[x, early]);
    }

    #[test]
    fn no_value_is_overwritten_before_its_last_reader() {
        let plan = plan(blocks);
        for (i, step) in plan.steps.iter().enumerate() {
            // values made before this step that it or a later one reads, by place
            for reader in &plan.steps[i..] {
                for read in reader.inputs.iter().chain(&reader.added) {
                    let made = plan.steps[..i]
                        .iter()
                        .rposition(|s| s.output.buffer == read.buffer);
                    let later = plan.steps[i..].iter().position(|s| std::ptr::eq(s, reader));
                    let remade = later.is_some_and(|n| {
                        plan.steps[i..i + n]
                            .iter()
                            .any(|s| s.output.buffer == read.buffer)
                    });
                    if let (Some(made), false) = (made, remade) {
                        assert_ne!(
                            step.output.buffer, read.buffer,
                            "step {i} overwrites the value of step {made}"
                        );
                        assert_eq!(plan.steps[made].output.layout, read.layout, "step {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn buffers_are_reused_and_large_enough() {
        let plan = plan(blocks);
        // the early value, a block's input, the one before its last layer, and that layer's output
        assert_eq!(plan.buffers.len(), 4);
        for step in &plan.steps {
            assert!(plan.buffers[step.output.buffer] >= step.output.layout.image());
        }
    }

    #[test]
    fn what_is_concatenated_is_written_in_its_place() {
        let token = Token::detect(None);
        let block = token.lanes() * token.element().packed();
        let joined = |widths: [usize; 3]| {
            plan(move |b, x| {
                let x = b.conv("stem", x, block, 3, 1);
                let branch = |b: &mut Builder, i: usize| {
                    let y = b.conv(&format!("squeeze{i}"), x, 8, 1, 1);
                    b.conv(&format!("branch{i}"), y, widths[i] * block / 2, 1, 1)
                };
                let branches = [branch(b, 0), branch(b, 1), branch(b, 2)];
                let x = b.concat(&branches);
                b.conv("after", x, 8, 3, 1);
            })
        };
        let names = |plan: &Plan| Vec::from_iter(plan.steps.iter().map(|s| s.name.clone()));
        let whole = joined([2, 4, 2]);
        let (squeezed, places): (Vec<_>, Vec<_>) = (0..3)
            .map(|i| (whole.steps[2 + 2 * i].output, whole.steps[3 + 2 * i].output))
            .unzip();
        // image, stem, three branches of two, after
        assert_eq!(whole.steps.len(), 9, "{:?}", names(&whole));
        let to = whole.steps[8].inputs[0];
        assert!(places.iter().all(|place| place.buffer == to.buffer));
        assert!(squeezed.iter().all(|place| place.buffer != to.buffer));
        let size = to.layout.block();
        assert_eq!(
            [0, 1, 3].map(|n| n * size).to_vec(),
            Vec::from_iter(places.iter().map(|p| p.offset))
        );
        assert!(
            places
                .iter()
                .all(|p| (p.layout.image(), p.layout.border) == (to.layout.image(), 1))
        );
        // the second begins with half a block, the third does not
        let mixed = joined([1, 3, 2]);
        assert_eq!(mixed.steps.len(), 10, "{:?}", names(&mixed));
        let concat = &mixed.steps[8];
        assert!(matches!(&concat.kernel, Kernel::Concat(firsts) if *firsts == [block / 2]));
        assert_eq!(concat.inputs[0].buffer, mixed.steps[5].output.buffer);
    }

    #[test]
    fn the_image_of_a_convolution_keeps_its_channels_together() {
        let lanes = |plan: &Plan| plan.steps[0].output.layout.lanes;
        assert_eq!(lanes(&plan(blocks)), 3);
        let token = Token::detect(None).lanes();
        let two_readers = plan(|b, x| {
            b.conv("conv", x, 3, 3, 1);
            b.relu(x);
        });
        assert_eq!(lanes(&two_readers), token);
    }
}
