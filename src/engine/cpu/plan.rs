//! The plan of one network on one instruction set: a layout and a buffer for each value, a prepared kernel for each
//! layer. Weights are packed here and the originals dropped.

use std::collections::BTreeSet;

use super::buckets::Buckets;
use super::choose;
use super::passes::{self, Fused, Layer, LayerOp};
use crate::engine::EngineError;
use crate::ir::Graph;
use crate::kernels::{
    Buffer, Conv, ConvParts, Element, Epilogue, Layout, Map, Misfit, Operation, Pool, Token,
};
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

/// Where a value lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) buffer: usize,
    pub(super) layout: Layout,
}

#[derive(Debug)]
pub(super) enum Kernel {
    Image,
    Conv(Box<Buckets>),
    Pool(Pool),
    Map(Map),
    Concat,
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
        let layers = passes::lower(graph, &mut parameters)?;
        let layouts = layouts(&layers, token);
        let (places, buffers) = place(&layers, &layouts);
        let mut steps = Vec::with_capacity(layers.len());
        for (layer, &output) in layers.into_iter().zip(&places) {
            steps.push(step(layer, output, &places, token)?);
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

impl Kernel {
    /// Values of its packed weights.
    pub(super) fn weights(&self) -> usize {
        match self {
            Self::Conv(conv) => conv.packed_len(),
            Self::Image | Self::Pool(_) | Self::Map(_) | Self::Concat | Self::Flatten => 0,
        }
    }

    /// What runs on a batch of that size, for profiles.
    pub(super) fn name(&self, batch: usize) -> &'static str {
        match self {
            Self::Image => "layout",
            Self::Conv(conv) => conv.of(batch).algorithm().name(),
            Self::Pool(_) => "pool",
            Self::Map(_) => "element-wise",
            Self::Concat => "concat",
            Self::Flatten => "flatten",
        }
    }
}

/// The layout of each layer's value: blocks of the vector's width, bordered for its widest reader. An image of few
/// channels keeps them together, so that a stem's window is one run of values and no lane is wasted on padding.
fn layouts(layers: &[Layer], token: Token) -> Vec<Layout> {
    let mut layouts: Vec<Layout> = layers
        .iter()
        .map(|layer| Layout {
            channels: layer.shape.channels,
            height: layer.shape.height,
            width: layer.shape.width,
            element: token.element(),
            lanes: token.lanes(),
            border: 0,
        })
        .collect();
    let mut only_convs = vec![true; layers.len()];
    for layer in layers {
        for read in layer.reads() {
            only_convs[read] &=
                layer.inputs.contains(&read) && matches!(layer.op, LayerOp::Conv { .. });
        }
        if let LayerOp::Conv { spec, .. } = &layer.op {
            for &input in &layer.inputs {
                let border = &mut layouts[input].border;
                *border = (*border).max(spec.padding.0).max(spec.padding.1);
            }
        }
    }
    for ((layer, layout), only_convs) in layers.iter().zip(&mut layouts).zip(only_convs) {
        let narrow = matches!(layer.op, LayerOp::Image)
            && only_convs
            && layout.channels < layout.per_block();
        // the last value is read as planes, which any layout gives
        if narrow {
            layout.lanes = layout.channels.div_ceil(layout.element.packed());
        }
    }
    // logits keep the precision they were summed in
    if let (Some(layer), Some(layout)) = (layers.last(), layouts.last_mut())
        && matches!(layer.op, LayerOp::Conv { .. })
        && layer.reads().eq(layer.inputs.iter().copied())
    {
        layout.element = Element::F32;
    }
    layouts
}

/// Gives each value a buffer, reusing those whose values nobody reads any more; returns the buffers' sizes too.
fn place(layers: &[Layer], layouts: &[Layout]) -> (Vec<Place>, Vec<usize>) {
    let mut last_reader: Vec<usize> = (0..layers.len()).collect();
    for (index, layer) in layers.iter().enumerate() {
        for read in layer.reads() {
            last_reader[read] = index;
        }
    }
    let mut places = Vec::with_capacity(layers.len());
    let mut buffers: Vec<usize> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    for (index, (layer, layout)) in layers.iter().zip(layouts).enumerate() {
        let size = layout.image();
        let fitting = free
            .iter()
            .enumerate()
            .filter(|(_, b)| buffers[**b] >= size);
        // the smallest that fits, or else the largest, which grows
        let choice = fitting
            .min_by_key(|(_, b)| buffers[**b])
            .or_else(|| free.iter().enumerate().max_by_key(|(_, b)| buffers[**b]))
            .map(|(at, _)| at);
        let buffer = match choice {
            Some(at) => free.swap_remove(at),
            None => {
                buffers.push(0);
                buffers.len() - 1
            }
        };
        buffers[buffer] = buffers[buffer].max(size);
        places.push(Place {
            buffer,
            layout: *layout,
        });
        let mut dead: Vec<usize> = layer
            .reads()
            .filter(|&read| last_reader[read] == index)
            .collect();
        dead.sort_unstable();
        dead.dedup();
        free.extend(dead.into_iter().map(|read| places[read].buffer));
    }
    (places, buffers)
}

fn step(layer: Layer, output: Place, places: &[Place], token: Token) -> Result<Step, EngineError> {
    let inputs: Vec<Place> = layer.inputs.iter().map(|&i| places[i]).collect();
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
        (LayerOp::Concat, _) => Kernel::Concat,
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
    use crate::kernels::Isa;
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
