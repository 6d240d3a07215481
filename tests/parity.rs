//! The fused engine against candle over every registered architecture.

use std::num::NonZeroUsize;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use resnetd::engine::{
    DeviceChoice, Element, Engine, EngineChoice, EngineOptions, FusedEngine, FusedOp, Isa,
    Precision, Token, select_one,
};
use resnetd::families::{self, Architecture};
use resnetd::ir::{Graph, Shape};
use resnetd::pool::Pool;
use resnetd::weights::{Generator, Parameters};

const SEED: u64 = 20151210;

/// Relative distance in L2 that summing in another order may make in f32.
const TOLERANCE: f64 = 1e-5;

/// The same for what a token keeps values in. bf16 rounds each to 8 bits, which adds up over depth, and most where no
/// shortcut carries the signal past the layers: rounding weights and activations of the plain networks in PyTorch, with
/// all else in f32, puts these images 9.5e-3 off at depth 32, 1.05e-2 at 44 and 3.3e-2 at 56.
fn tolerance(token: Token, architecture: &Architecture) -> f64 {
    match (token.element(), architecture.name) {
        (Element::F32, _) => TOLERANCE,
        (Element::Bf16, "plain34" | "plain44") => 2e-2,
        (Element::Bf16, "plain56") => 5e-2,
        (Element::Bf16, _) if architecture.depth > 152 => 2e-2,
        (Element::Bf16, _) => 1e-2,
    }
}

/// Batch-norm scales with which a network neither dies out nor blows up, so that a wrong layer shows.
fn norm_weights(architecture: &Architecture) -> [f64; 2] {
    match architecture.name {
        name if name.starts_with("plain") || name.ends_with("_bn") => [0.9, 1.3],
        "googlenet" | "inception_v3" | "inception_v4" => [0.9, 1.3],
        "resnet110" | "resnet110_b" | "preact_resnet110" => [0.4, 0.7],
        "stochdepth_resnet110" => [0.5, 0.8],
        "resnet1202" => [0.2, 0.3],
        "stochdepth_resnet1202" => [0.25, 0.4],
        "resnet1202_b" => [0.3, 0.4],
        "preact_resnet1001" => [0.3, 0.6],
        _ => [0.5, 0.9],
    }
}

fn parameters(graph: &Graph, norm_weights: [f64; 2]) -> Parameters {
    Parameters::load(graph, &Generator::new(graph, SEED, norm_weights)).expect("generated weights")
}

fn candle(graph: &Arc<Graph>, parameters: Parameters) -> Box<dyn Engine> {
    let options = EngineOptions {
        device: DeviceChoice::Cpu,
        engine: EngineChoice::Candle,
        ..EngineOptions::default()
    };
    select_one(graph, parameters, &options).expect("the candle engine")
}

fn run(engine: &mut dyn Engine, graph: &Graph, batch: usize, input: &[f32]) -> Vec<f32> {
    let mut logits = vec![f32::NAN; batch * graph.classes()];
    engine
        .forward(batch, input, &mut logits)
        .expect("a forward pass");
    logits
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// |a - b| / |b|; NaN if a value is.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    norm(a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)))
        / norm(b.iter().map(|&b| f64::from(b)))
}

#[test]
fn every_cifar_architecture_gives_candles_logits() {
    check_architectures(&|a| a.input_size == 32);
}

#[test]
fn every_imagenet_architecture_gives_candles_logits() {
    check_architectures(&|a| a.input_size != 32);
}

fn check_architectures(these: &dyn Fn(&Architecture) -> bool) {
    let threads = NonZeroUsize::new(2).expect("not zero");
    let pool = Arc::new(Pool::new(threads).expect("threads"));
    for architecture in families::all().filter(|a| these(a)) {
        let name = architecture.name;
        // smaller images that leave the last layers a few pixels
        let side = match architecture.input_size {
            224 => 64,
            299 => 107,
            side => side,
        };
        let graph =
            (architecture.build)(Shape::new(3, side, side), architecture.classes).expect(name);
        let graph = Arc::new(graph);
        let weights = norm_weights(architecture);
        let input = Generator::input(SEED, 2, graph.input());
        let expected = run(
            &mut *candle(&graph, parameters(&graph, weights)),
            &graph,
            2,
            &input,
        );
        assert!(expected.iter().all(|v| v.is_finite()), "{name}");
        let (first, second) = expected.split_at(graph.classes());
        let contrast = apart(first, second);
        assert!(
            contrast >= 1e-3,
            "{name}: two images differ by {contrast:.1e} only"
        );

        for token in [Some(Token::detect(None)), Token::detect_bf16(None)] {
            let Some(token) = token else {
                println!("this machine has no bf16");
                continue;
            };
            let threads = Some(Arc::clone(&pool));
            let parameters = parameters(&graph, weights);
            let mut engine = FusedEngine::new(&graph, parameters, token, threads).expect(name);
            let found = run(&mut engine, &graph, 2, &input);
            let (error, most) = (apart(&found, &expected), tolerance(token, architecture));
            let what = format!("{name} on {} in {:?}", token.isa(), token.element());
            println!("{what}: {error:.1e}, two images {contrast:.1e} apart");
            assert!(error <= most, "{what}: {error:.2e}");
            let again = run(&mut engine, &graph, 2, &input);
            assert_eq!(again, found, "{what}: a second run");
            let alone = run(&mut engine, &graph, 1, &input[..graph.input().elements()]);
            let error = apart(&alone, &found[..graph.classes()]);
            // bf16 knows one algorithm, which sums alike in every batch
            let most = match token.element() {
                Element::F32 => TOLERANCE,
                Element::Bf16 => 0.0,
            };
            assert!(error <= most, "{what}: alone and in a batch {error:.2e}");
        }
    }
}

#[test]
fn every_instruction_set_gives_candles_logits() {
    // the Inceptions, for their 1x7 and 7x1 windows, take no image smaller than 75 pixels
    for (name, height, width) in [
        ("resnet20", 17, 15),
        ("preact_resnet164", 17, 15),
        ("resnext29_8x64d", 17, 15),
        ("nin_cifar", 17, 15),
        ("googlenet", 33, 31),
        ("inception_v3", 75, 80),
    ] {
        let architecture = families::find(name).expect(name);
        let graph = (architecture.build)(Shape::new(3, height, width), 10).expect(name);
        let graph = Arc::new(graph);
        let weights = norm_weights(architecture);
        let input = Generator::input(SEED, 3, graph.input());
        let expected = run(
            &mut *candle(&graph, parameters(&graph, weights)),
            &graph,
            3,
            &input,
        );
        for token in Token::available() {
            let mut engine =
                FusedEngine::new(&graph, parameters(&graph, weights), token, None).expect(name);
            let error = apart(&run(&mut engine, &graph, 3, &input), &expected);
            let most = tolerance(token, architecture);
            assert!(error <= most, "{name} on {token:?}: {error:.2e}");
            assert_eq!(engine.info().isa, token.isa().name());
        }
    }
}

#[test]
fn the_cpu_gets_the_fused_engine_and_its_cap() {
    let graph = Arc::new(
        families::find("resnet20")
            .expect("registered")
            .default_graph()
            .expect("a graph"),
    );
    let mut options = EngineOptions {
        device: DeviceChoice::Cpu,
        max_isa: Some(Isa::Portable),
        ..EngineOptions::default()
    };
    let info = |options: &EngineOptions| {
        let engine =
            select_one(&graph, parameters(&graph, [0.5, 0.9]), options).expect("an engine");
        engine.info().clone()
    };
    let fused = info(&options);
    assert_eq!(
        (fused.engine, fused.isa, fused.device.as_str()),
        ("fused", "portable", "cpu")
    );
    options.engine = EngineChoice::Candle;
    assert_eq!(info(&options).engine, "candle");
}

#[test]
fn bf16_runs_where_the_cpu_has_it_and_in_f32_elsewhere() {
    let graph = families::find("resnet20").expect("registered");
    let graph = Arc::new(graph.default_graph().expect("a graph"));
    let select = |max_isa, engine| {
        let options = EngineOptions {
            device: DeviceChoice::Cpu,
            precision: Precision::Bf16,
            max_isa,
            engine,
            ..EngineOptions::default()
        };
        let engine = select_one(&graph, parameters(&graph, [0.5, 0.9]), &options);
        engine.map(|engine| engine.info().clone())
    };
    let widest = select(None, EngineChoice::Auto).expect("an engine");
    match Token::detect_bf16(None) {
        Some(token) => assert_eq!((widest.precision, widest.isa), ("bf16", token.isa().name())),
        None => assert_eq!(widest.precision, "f32"),
    }
    let capped = select(Some(Isa::Portable), EngineChoice::Fused).expect("an engine");
    assert_eq!((capped.precision, capped.isa), ("f32", "portable"));
    let refused = select(None, EngineChoice::Candle).expect_err("candle has no bf16");
    assert!(refused.to_string().contains("--precision f32"), "{refused}");
}

#[test]
fn profiles_name_every_convolution() {
    let graph = Arc::new(
        families::find("resnet20")
            .expect("registered")
            .default_graph()
            .expect("a graph"),
    );
    let mut engine = FusedEngine::new(
        &graph,
        parameters(&graph, [0.5, 0.9]),
        Token::detect(None),
        None,
    )
    .expect("an engine");
    let input = Generator::input(SEED, 2, graph.input());
    let mut logits = vec![f32::NAN; 20];
    let layers = engine.profile(2, &input, &mut logits).expect("a profile");
    assert_eq!(
        layers.iter().map(|l| l.macs).sum::<u64>(),
        2 * graph.counts().macs
    );
    assert!(
        layers
            .iter()
            .any(|l| l.name == "conv1" && l.output == [16, 32, 32])
    );
    assert_eq!(logits, run(&mut engine, &graph, 2, &input));
    let mut candle = candle(&graph, parameters(&graph, [0.5, 0.9]));
    let error = candle
        .profile(2, &input, &mut logits)
        .expect_err("candle has no layers to time");
    assert!(error.to_string().contains("--engine fused"), "{error}");
}

#[test]
fn candle_tensors_in_and_out() {
    let graph = Arc::new(
        families::find("resnet20")
            .expect("registered")
            .default_graph()
            .expect("a graph"),
    );
    let token = Token::detect(None);
    let engine = || {
        FusedEngine::new(&graph, parameters(&graph, [0.5, 0.9]), token, None).expect("an engine")
    };
    let input = Generator::input(SEED, 2, graph.input());
    let expected = run(&mut engine(), &graph, 2, &input);
    let op = FusedOp::new(engine(), &graph);
    let images = Tensor::from_slice(&input, (2, 3, 32, 32), &Device::Cpu).expect("a tensor");
    let logits = op.forward(&images).expect("logits");
    assert_eq!(logits.to_vec2::<f32>().expect("f32").concat(), expected);
    // a view that is not contiguous, and starts inside its storage
    let swapped = images
        .transpose(2, 3)
        .and_then(|t| t.contiguous())
        .and_then(|t| t.transpose(2, 3));
    let second = swapped.and_then(|t| t.narrow(0, 1, 1)).expect("a view");
    let logits = op.forward(&second).expect("logits");
    assert_eq!(
        logits.to_vec2::<f32>().expect("f32").concat(),
        expected[10..]
    );
    let small = images.narrow(2, 0, 16).expect("half of it");
    let error = op.forward(&small).expect_err("too small").to_string();
    assert!(error.contains("3x16x32"), "{error}");
}
