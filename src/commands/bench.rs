//! `resnetd bench`: the forward pass of one network on random input.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use safetensors::tensor::{Dtype, TensorView};

use super::timing::{Effort, SEED, Times};
use crate::config::BenchArgs;
use crate::engine::{Engine, EngineInfo, LayerProfile, Token, select_one, tune};
use crate::families::Architecture;
use crate::ir::Graph;
use crate::weights::{self, Generator, Parameters};

const WARMUP_BATCHES: usize = 2;
const MIN_BATCHES: usize = 3;
const PROFILED_BATCHES: usize = 10;

pub(super) fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<()> {
    let pool = super::threads::pool(args.engine.threads())?;
    let architecture = super::architecture(&args.architecture)?;
    let graph = Arc::new(architecture.default_graph().map_err(anyhow::Error::msg)?);
    let parameters = match &args.weights {
        Some(path) => Parameters::load(&graph, weights::open(path)?.as_ref())?,
        None => Parameters::load(&graph, &Generator::new(&graph, SEED, [0.5, 0.9]))?,
    };
    if args.tune {
        // only f32 has a choice of algorithms
        let token = Token::detect(args.engine.options(&pool).max_isa);
        for line in tune(&graph, parameters, token, pool.as_ref())? {
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    let mut engine = select_one(&graph, parameters, &args.engine.options(&pool))?;
    let batch = args.batch.get();
    let input = Generator::input(SEED, batch, graph.input());
    let mut logits = vec![0.0; batch * graph.classes()];
    let effort = Effort {
        warmup: WARMUP_BATCHES,
        time: Duration::try_from_secs_f64(args.seconds)
            .context("--seconds must be a positive number of seconds")?,
        batches: MIN_BATCHES,
    };
    let times = Times::measure(engine.as_mut(), batch, &input, &mut logits, effort)?;
    if args.profile {
        let layers = profile(engine.as_mut(), batch, &input, &mut logits)?;
        print_profile(out, &layers)?;
    }
    if let Some(path) = &args.dump {
        dump(path, &graph, batch, &input, &logits)?;
    }
    report(out, args, architecture, engine.info(), &times)
}

fn report(
    out: &mut dyn Write,
    args: &BenchArgs,
    architecture: &Architecture,
    info: &EngineInfo,
    times: &Times,
) -> Result<()> {
    let batch = args.batch.get();
    let rate = times.images_per_second(batch);
    if !args.json {
        writeln!(
            out,
            "{} batch {batch}: {rate:.1} images/s, p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms ({} {} {} on {})",
            architecture.name,
            times.percentile_ms(50),
            times.percentile_ms(90),
            times.percentile_ms(99),
            info.engine,
            info.precision,
            info.isa,
            info.device,
        )?;
        return Ok(());
    }
    let line = serde_json::json!({
        "architecture": architecture.name,
        "batch": batch,
        "batches": times.batches(),
        "images_per_second": rate,
        "latency_ms": { "p50": times.percentile_ms(50), "p90": times.percentile_ms(90), "p99": times.percentile_ms(99) },
        "engine": info.engine,
        "precision": info.precision,
        "isa": info.isa,
        "device": info.device,
        "threads": args.engine.threads(),
    });
    writeln!(out, "{line}")?;
    Ok(())
}

/// The shortest time of each layer over some batches.
fn profile(
    engine: &mut dyn Engine,
    batch: usize,
    input: &[f32],
    logits: &mut [f32],
) -> Result<Vec<LayerProfile>> {
    let mut best = engine.profile(batch, input, logits)?;
    for _ in 1..PROFILED_BATCHES {
        for (best, layer) in best.iter_mut().zip(engine.profile(batch, input, logits)?) {
            best.time = best.time.min(layer.time);
        }
    }
    Ok(best)
}

fn print_profile(out: &mut dyn Write, layers: &[LayerProfile]) -> Result<()> {
    let total: Duration = layers.iter().map(|l| l.time).sum();
    writeln!(
        out,
        "    ms     %  GFLOP/s  algorithm     output          layer"
    )?;
    for layer in layers {
        let seconds = layer.time.as_secs_f64();
        let [channels, height, width] = layer.output;
        writeln!(
            out,
            "{:6.3} {:5.1} {:8.1}  {:12}  {:14}  {}",
            seconds * 1e3,
            100.0 * seconds / total.as_secs_f64(),
            2.0 * layer.macs as f64 / seconds / 1e9,
            layer.algorithm,
            format!("{channels}x{height}x{width}"),
            layer.name,
        )?;
    }
    let weights: usize = layers.iter().map(|l| l.weights).sum();
    writeln!(out, "packed weights: {:.1} MB", weights as f64 / 1e6)?;
    Ok(())
}

/// Writes `input` `[n, c, h, w]` and `logits` `[n, classes]`.
fn dump(path: &Path, graph: &Graph, batch: usize, input: &[f32], logits: &[f32]) -> Result<()> {
    let bytes =
        |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let (input, logits) = (bytes(input), bytes(logits));
    let shape = graph.input();
    let dims = vec![batch, shape.channels, shape.height, shape.width];
    let tensors = HashMap::from([
        ("input", TensorView::new(Dtype::F32, dims, &input)?),
        (
            "logits",
            TensorView::new(Dtype::F32, vec![batch, graph.classes()], &logits)?,
        ),
    ]);
    safetensors::serialize_to_file(tensors, None, path)
        .with_context(|| format!("cannot write {}", path.display()))
}
