//! What graphs are lowered to: the layers' names and, in words, their epilogues.

use super::*;
use crate::ir::Builder;
use crate::weights::Generator;

fn lowered(build: impl Fn(&mut Builder, NodeId)) -> Vec<Layer> {
    let (mut builder, x) = Builder::new(Shape::new(4, 6, 6));
    build(&mut builder, x);
    let graph = builder.finish().expect("a graph");
    let source = Generator::new(&graph, 3, [0.5, 0.9]);
    let mut parameters = Parameters::load(&graph, &source).expect("generated weights");
    lower(&graph, &mut parameters, 14 * 14).expect("layers")
}

/// Operations of each layer, in words.
fn words(layers: &[Layer]) -> Vec<String> {
    let word = |operation: &Fused| match operation {
        Fused::Bias(_) => "bias".into(),
        Fused::Affine { .. } => "affine".into(),
        Fused::Add(value) => format!("add {value}"),
        Fused::Scale(_) => "scale".into(),
        Fused::Relu => "relu".into(),
    };
    let layer = |layer: &Layer| {
        let list: Vec<String> = layer.epilogue.iter().map(word).collect();
        format!("{}: {}", layer.name, list.join(", "))
    };
    layers.iter().map(layer).collect()
}

#[test]
fn a_block_becomes_one_layer_a_convolution() {
    let layers = lowered(|b, x| {
        let y = b.conv("conv1", x, 4, 3, 1);
        let y = b.batch_norm("bn1", y);
        let y = b.relu(y);
        let y = b.conv("conv2", y, 4, 3, 1);
        let y = b.batch_norm("bn2", y);
        let y = b.add(y, x);
        b.relu(y);
    });
    assert_eq!(
        words(&layers),
        ["input: ", "conv1: bias, relu", "conv2: bias, add 0, relu"]
    );
}

#[test]
fn the_later_branch_adds_the_earlier() {
    let layers = lowered(|b, x| {
        let y = b.conv("main", x, 8, 3, 1);
        let s = b.conv("short", x, 8, 1, 1);
        let s = b.batch_norm("bn", s);
        b.add(y, s);
    });
    assert_eq!(words(&layers), ["input: ", "main: ", "short: bias, add 1"]);
}

#[test]
fn a_small_images_shortcut_gathers_its_pixels_first() {
    let layers = lowered(|b, x| {
        let y = b.conv("main", x, 8, 3, 2);
        let s = b.conv("short", x, 8, 1, 2);
        b.add(y, s);
    });
    assert_eq!(
        words(&layers),
        ["input: ", "main: ", "short: ", "short: add 1"]
    );
    assert!(matches!(layers[2].op, LayerOp::Map { stride: 2 }));
    assert_eq!(layers[2].shape.channels, layers[0].shape.channels);
    assert_eq!(layers[3].inputs, [2]);
}

#[test]
fn a_value_with_two_readers_stays_whole() {
    let layers = lowered(|b, x| {
        let x = b.conv("conv", x, 4, 3, 1);
        let a = b.batch_norm("bn", x);
        let a = b.relu(a);
        let y = b.conv("conv2", a, 4, 3, 1);
        b.add(x, y);
    });
    assert_eq!(
        words(&layers),
        ["input: ", "conv: ", "bn: affine, relu", "conv2: add 1"]
    );
}

#[test]
fn norm_after_relu_is_not_folded() {
    let layers = lowered(|b, x| {
        let x = b.conv("conv", x, 4, 3, 1);
        let x = b.relu(x);
        b.batch_norm("bn", x);
    });
    assert_eq!(words(&layers), ["input: ", "conv: relu, affine"]);
}

#[test]
fn shortcut_a_is_one_layer_and_a_value_can_be_added_to_itself() {
    let layers = lowered(|b, x| {
        let s = b.layer("", Op::Subsample { stride: 2 }, &[x]);
        let s = b.layer("", Op::PadChannels { extra: 4 }, &[s]);
        b.add(s, s);
    });
    assert_eq!(words(&layers), ["input: ", "subsample: ", "add: add 1"]);
    assert_eq!(layers[1].shape, Shape::new(8, 3, 3));
    assert_eq!(layers[2].inputs, [1]);
}

#[test]
fn flattening_one_pixel_is_nothing_but_keeps_its_readers_apart() {
    let layers = lowered(|b, x| {
        let x = b.global_avg_pool(x);
        let x = b.flatten(x);
        let y = b.linear("fc", x, 4);
        b.add(x, y);
    });
    assert_eq!(
        words(&layers),
        ["input: ", "average pool: ", "fc: bias, add 1"]
    );
}
