//! What the steps of some graphs are; what they mean is [`reference`](crate::engine::cuda::reference)'s, which tests/
//! holds to the other engines.

use super::*;
use crate::ir::{Builder, NodeId};
use crate::weights::Generator;

fn parameters(graph: &Graph) -> Parameters {
    Parameters::load(graph, &Generator::new(graph, 1, [0.5, 0.9])).expect("generated weights")
}

fn plan_of(build: impl Fn(&mut Builder, NodeId) -> NodeId) -> Plan {
    let (mut b, x) = Builder::new(Shape::new(3, 8, 8));
    let x = build(&mut b, x);
    let x = b.flatten(x);
    b.linear("fc", x, 5);
    let graph = b.finish().expect("a graph");
    Plan::new(&graph, parameters(&graph), ALIGNED).expect("a plan")
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
    let error = Plan::new(&graph, parameters(&graph), ALIGNED).expect_err("no place");
    assert!(error.to_string().contains("linear layers"), "{error}");
}
