//! The plan run in plain loops, in an arena of its own: what its steps mean, held to the engines of the CPU.

use std::sync::Arc;

use super::*;
use crate::engine::{Engine, FusedEngine, Token};
use crate::families;
use crate::ir::Builder;
use crate::kernels::Reduce;
use crate::weights::Generator;

const SEED: u64 = 20151210;

/// Logits of a plan, from `[batch, c, h, w]`.
pub(in crate::engine) fn logits(
    graph: &Graph,
    parameters: Parameters,
    batch: usize,
    input: &[f32],
) -> Vec<f32> {
    let plan = Plan::new(graph, parameters, ALIGNED).expect("a plan");
    run(&plan, batch, input)
}

/// Runs a plan on `[batch, c, h, w]`.
fn run(plan: &Plan, batch: usize, input: &[f32]) -> Vec<f32> {
    let mut machine = Machine {
        batch,
        // what is read before it is written shows in the logits
        arena: vec![f32::NAN; plan.arena * batch],
        logits: Vec::new(),
    };
    machine.image(&plan.image, input);
    for (index, step) in plan.steps.iter().enumerate() {
        let last = index + 1 == plan.steps.len();
        let to_logits = last && plan.logits == Logits::Product;
        match &step.op {
            StepOp::Conv(conv) => machine.conv(step, conv, to_logits),
            StepOp::Pool(spec) => machine.pool(step, spec),
            StepOp::Map { stride, operations } => machine.map(step, *stride, operations),
        }
    }
    if let Logits::Value(tensor) = plan.logits {
        for n in 0..batch {
            for c in 0..tensor.shape.channels {
                let value = machine.read(&tensor, [n, 0, 0, c]);
                machine.logits.push(value);
            }
        }
    }
    machine.logits
}

struct Machine {
    batch: usize,
    arena: Vec<f32>,
    logits: Vec<f32>,
}

impl Machine {
    fn place(&self, tensor: &Tensor, [n, y, x, c]: [usize; 4]) -> usize {
        let Shape {
            channels,
            height,
            width,
        } = tensor.shape;
        assert!(n < self.batch && y < height && x < width && c < channels);
        tensor.offset(self.batch) + ((n * height + y) * width + x) * tensor.pitch + c
    }

    fn read(&self, tensor: &Tensor, at: [usize; 4]) -> f32 {
        self.arena[self.place(tensor, at)]
    }

    /// Writes what `value` gives at each place of an image.
    fn write(&mut self, tensor: &Tensor, value: impl Fn(&Self, [usize; 4]) -> f32) {
        let Shape {
            channels,
            height,
            width,
        } = tensor.shape;
        for n in 0..self.batch {
            for y in 0..height {
                for x in 0..width {
                    for c in 0..channels {
                        let value = value(self, [n, y, x, c]);
                        let place = self.place(tensor, [n, y, x, c]);
                        self.arena[place] = value;
                    }
                }
            }
        }
    }

    fn image(&mut self, to: &Tensor, input: &[f32]) {
        let Shape { height, width, .. } = to.shape;
        let planes = input.len() / (self.batch * height * width);
        self.write(to, |_, [n, y, x, c]| match c < planes {
            true => input[((n * planes + c) * height + y) * width + x],
            false => 0.0,
        });
    }

    fn conv(&mut self, step: &Step, conv: &Conv, to_logits: bool) {
        let Step { input, output, .. } = step;
        let outs = output.shape.channels;
        let group = input.shape.channels / conv.groups;
        let per_filter = conv.weights.len() / outs;
        assert_eq!(per_filter, conv.kernel.0 * conv.kernel.1 * group);
        let value = |this: &Self, [n, y, x, k]: [usize; 4]| {
            let filter = &conv.weights[k * per_filter..][..per_filter];
            let first = k / (outs / conv.groups) * group;
            let mut sum = conv.bias[k];
            for r in 0..conv.kernel.0 {
                for s in 0..conv.kernel.1 {
                    let row = (y * conv.stride + r).wrapping_sub(conv.padding.0);
                    let column = (x * conv.stride + s).wrapping_sub(conv.padding.1);
                    if row >= input.shape.height || column >= input.shape.width {
                        continue;
                    }
                    let pixel = this.place(input, [n, row, column, first]);
                    let pixel = &this.arena[pixel..pixel + group];
                    let weights = &filter[(r * conv.kernel.1 + s) * group..][..group];
                    sum += pixel.iter().zip(weights).map(|(a, b)| a * b).sum::<f32>();
                }
            }
            if let Some(residual) = &conv.residual {
                sum += this.read(residual, [n, y, x, k]);
            }
            if conv.relu { sum.max(0.0) } else { sum }
        };
        if to_logits {
            let logits = (0..self.batch * outs).map(|i| value(self, [i / outs, 0, 0, i % outs]));
            self.logits = logits.collect();
        } else {
            self.write(output, value);
        }
    }

    fn pool(&mut self, step: &Step, spec: &PoolSpec) {
        let Step { input, output, .. } = step;
        self.write(output, |this, [n, y, x, c]| {
            let (rows, columns) = (spec.rows[y], spec.columns[x]);
            let pixels = (rows.from..rows.to)
                .flat_map(|row| (columns.from..columns.to).map(move |column| (row, column)));
            let values = pixels.map(|(row, column)| this.read(input, [n, row, column, c]));
            match spec.reduce {
                Reduce::Max => values.fold(f32::NEG_INFINITY, f32::max),
                Reduce::Average => values.sum::<f32>() / (rows.counted * columns.counted) as f32,
            }
        });
    }

    fn map(&mut self, step: &Step, stride: usize, operations: &[Operation]) {
        let Step { input, output, .. } = step;
        assert_eq!(output.shape.height, input.shape.height.div_ceil(stride));
        self.write(output, |this, [n, y, x, c]| {
            let mut value = match c < input.shape.channels {
                true => this.read(input, [n, y * stride, x * stride, c]),
                false => 0.0,
            };
            for operation in operations {
                value = match operation {
                    Operation::Bias(bias) => value + bias[c],
                    Operation::Affine { scale, shift } => value * scale[c] + shift[c],
                    Operation::Add(added) => value + this.read(added, [n, y, x, c]),
                    Operation::Scale(factor) => value * factor,
                    Operation::Relu => value.max(0.0),
                };
            }
            value
        });
    }
}

fn parameters(graph: &Graph, norm_weights: [f64; 2]) -> Parameters {
    Parameters::load(graph, &Generator::new(graph, SEED, norm_weights)).expect("generated weights")
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

/// |a - b| / |b|; NaN if a value is.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    norm(a.iter().zip(b).map(|(a, b)| a - b)) / norm(b.iter().copied())
}

/// How far the plan is from the fused engine of the CPU on two images, and these from each other.
fn compare(graph: &Arc<Graph>, norm_weights: [f64; 2]) -> (f64, f64) {
    let batch = 2;
    let input = Generator::input(SEED, batch, graph.input());
    let weights = || parameters(graph, norm_weights);
    let token = Token::detect(None);
    let mut engine = FusedEngine::new(graph, weights(), token, None).expect("an engine");
    let mut expected = vec![0.0; batch * graph.classes()];
    engine
        .forward(batch, &input, &mut expected)
        .expect("logits");
    let (first, second) = expected.split_at(graph.classes());
    let found = logits(graph, weights(), batch, &input);
    (apart(&found, &expected), apart(first, second))
}

#[test]
fn every_architecture_gives_the_logits_of_the_cpu() {
    // the deepest are built as their shallower siblings are
    for architecture in families::all().filter(|a| a.depth <= 152) {
        let name = architecture.name;
        // the smallest image that the last layers have pixels of
        let mut sides = [17, 33, 64, 75].into_iter();
        let graph = sides.find_map(|side| (architecture.build)(Shape::new(3, side, side), 10).ok());
        let graph = graph.expect(name);
        let steady = ["plain", "googlenet", "inception"]
            .iter()
            .any(|f| name.starts_with(f));
        let norm_weights = match steady || name.ends_with("_bn") {
            true => [0.9, 1.3],
            false => [0.5, 0.9],
        };
        let (error, contrast) = compare(&Arc::new(graph), norm_weights);
        println!("{name}: {error:.1e}, two images {contrast:.1e} apart");
        assert!(error <= 1e-5, "{name}: {error:.2e}");
        // two images give different logits, and each its own
        assert!(
            contrast >= 50.0 * error.max(1e-6),
            "{name}: only {contrast:.1e} apart"
        );
    }
}

fn plan_of(build: impl Fn(&mut Builder, crate::ir::NodeId) -> crate::ir::NodeId) -> Plan {
    let (mut b, x) = Builder::new(Shape::new(3, 8, 8));
    let x = build(&mut b, x);
    let x = b.flatten(x);
    b.linear("fc", x, 5);
    let graph = b.finish().expect("a graph");
    Plan::new(&graph, parameters(&graph, [0.5, 0.9]), ALIGNED).expect("a plan")
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.name.as_str()).collect()
}

#[test]
fn a_residual_block_is_its_convolutions() {
    let plan = plan_of(|b, x| {
        let conv = |b: &mut Builder, name: &str, x| {
            let x = b.conv(name, x, 16, 3, 1);
            b.batch_norm(&format!("{name}_norm"), x)
        };
        let x = b.conv("stem", x, 16, 3, 1);
        let y = conv(b, "a", x);
        let y = b.relu(y);
        let y = conv(b, "b", y);
        let y = b.scale(y, 0.5);
        let y = b.add(y, x);
        b.relu(y)
    });
    assert_eq!(names(&plan), ["stem", "a", "b", "fc"]);
    let StepOp::Conv(last) = &plan.steps[2].op else {
        panic!("{:?}", plan.steps[2]);
    };
    assert_eq!(
        (last.residual, last.relu),
        (Some(plan.steps[0].output), true)
    );
    assert_eq!((plan.image.shape.channels, plan.image.pitch), (8, 8));
    assert_eq!(plan.logits, Logits::Product);
    // the image, two values alive at once with the one being written, and the logits, which reuse one of them
    assert_eq!(plan.arena, 8 * 8 * (16 + 16 + 16));
}

#[test]
fn what_is_concatenated_lies_in_its_place_or_is_copied() {
    let joined = |widths: [usize; 3]| {
        plan_of(move |b, x| {
            let x = b.conv("stem", x, 16, 3, 1);
            let branches: Vec<_> = (0..3)
                .map(|i| b.conv(&format!("branch{i}"), x, widths[i], 1, 1))
                .collect();
            b.concat(&branches)
        })
    };
    let whole = joined([8, 24, 16]);
    assert_eq!(
        names(&whole),
        ["stem", "branch0", "branch1", "branch2", "fc"]
    );
    let at = |i: usize| (whole.steps[i].output.pitch, whole.steps[i].output.offset(3));
    let start = whole.steps[1].output.offset(3);
    assert_eq!(
        [at(1), at(2), at(3)],
        [(48, start), (48, start + 8), (48, start + 32)]
    );
    // what begins within a word is copied there, and so is everything where pixels do
    assert_eq!(names(&joined([4, 24, 20])).len(), 5 + 2);
    assert_eq!(names(&joined([8, 8, 4])).len(), 5 + 3);
}

#[test]
fn a_flattened_image_is_for_linear_layers_alone() {
    let (mut b, x) = Builder::new(Shape::new(3, 4, 4));
    let x = b.flatten(x);
    b.relu(x);
    let graph = b.finish().expect("a graph");
    let error = Plan::new(&graph, parameters(&graph, [0.5, 0.9]), ALIGNED).expect_err("no place");
    assert!(error.to_string().contains("linear layers"), "{error}");
}
