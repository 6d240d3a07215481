//! Serving end to end, against the same work without a server: `cargo bench --bench serving -- --photos DIR`, where DIR
//! holds JPEG files.
//!
//! Starts the real binary with generated weights and asks it over HTTP on this machine. Throughput is compared with what
//! the cores could do if decoding, preprocessing and the forward pass were all there is, less the cores that the clients
//! take; the latency of one request at a time with those three one after another. Weights do not matter to speed.

#[path = "../../tests/common/mod.rs"]
mod common;
mod direct;
mod served;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use serde_json::json;

use common::process::Process;
use common::weights;
use direct::{Cost, Direct};
use served::{Latency, Load};

#[derive(Parser)]
struct Args {
    /// Folder of the JPEG files that the clients send
    #[arg(long, value_name = "DIR")]
    photos: Option<PathBuf>,
    #[arg(long, default_value = "resnet50")]
    architecture: String,
    /// Connections of the throughput, each with one request at a time
    #[arg(long, default_value = "16")]
    clients: NonZeroUsize,
    /// Of each measurement
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Of the server, and of the forward pass without it [default: the cores this process may use]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Of the forward pass: f32 or bf16
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Print a line of JSON too
    #[arg(long)]
    json: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Some(photos) = &args.photos else {
        println!("serving: skipped, as it needs photographs: -- --photos DIR");
        return Ok(());
    };
    let photos = read(photos)?;
    let cores = available_parallelism()?;
    let threads = args.threads.unwrap_or(cores);
    let seconds = Duration::try_from_secs_f64(args.seconds)?;

    let folder = tempfile::tempdir()?;
    weights::folder(folder.path(), &args.architecture, "weights.safetensors");
    let spec = format!("{}={}", args.architecture, folder.path().display());
    let precision = args.precision.parse().map_err(anyhow::Error::msg)?;
    let mut direct = Direct::load(&spec, precision, threads)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (load, latency) = runtime.block_on(async {
        let threads = threads.to_string();
        let server = Process::serve(&[
            "--model",
            &spec,
            "--threads",
            &threads,
            "--engine",
            "fused",
            "--precision",
            &args.precision,
        ])
        .await;
        let load = Load::measure(&server, &photos, args.clients.get(), seconds).await?;
        let latency = Latency::measure(&server, &photos, &mut direct, seconds).await?;
        anyhow::Ok((load, latency))
    })?;

    let batch = load.batch.round().max(1.0) as usize;
    let report = Report {
        prepare: Cost::of(seconds, || direct.prepare_all(&photos))?,
        single: Cost::of(seconds, || direct.forward(1))?,
        batched: Cost::of(seconds, || direct.forward(batch))?,
        cores: (cores.get() as f64 - load.client_cores).min(threads.get() as f64),
        load,
        latency,
    };
    let info = direct.model.engines[0].info();
    println!(
        "{} {} {} {}, {threads} threads, {} clients, {} photographs",
        args.architecture,
        info.engine,
        info.precision,
        info.isa,
        args.clients,
        photos.len()
    );
    report.print();
    if args.json {
        println!("{}", report.json());
    }
    Ok(())
}

/// The JPEG files of a folder, by name.
fn read(folder: &Path) -> Result<Vec<Bytes>> {
    let listed = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = listed
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.retain(|path| {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        ["jpg", "jpeg"].contains(&extension.to_ascii_lowercase().as_str())
    });
    paths.sort();
    ensure!(
        !paths.is_empty(),
        "{} holds no .jpg or .jpeg file",
        folder.display()
    );
    let read = |path: &PathBuf| Ok(std::fs::read(path)?.into());
    paths.iter().map(read).collect()
}

/// In milliseconds.
fn percentile(sorted: &[f64], p: usize) -> f64 {
    sorted[(sorted.len() * p).div_ceil(100).max(1) - 1] * 1e3
}

struct Report {
    prepare: Cost,
    single: Cost,
    batched: Cost,
    load: Load,
    /// For the server.
    cores: f64,
    latency: Latency,
}

impl Report {
    /// Images a second if the cores did nothing but the work.
    fn possible(&self) -> f64 {
        self.cores / (self.prepare.cpu + self.batched.cpu)
    }

    fn print(&self) {
        let Load { batch, .. } = self.load;
        println!("                               wall ms   CPU ms  an image, without a server");
        for (name, cost) in [
            ("decode and preprocess".to_owned(), &self.prepare),
            ("forward, batch 1".to_owned(), &self.single),
            (format!("forward, batch {batch:.0}"), &self.batched),
        ] {
            println!("{name:28} {:9.2} {:8.2}", cost.wall * 1e3, cost.cpu * 1e3);
        }
        println!(
            "throughput: {:.1} images/s, {:.3} of the {:.1} possible on {:.2} cores (clients take {:.2})",
            self.load.images_per_second,
            self.load.images_per_second / self.possible(),
            self.possible(),
            self.cores,
            self.load.client_cores,
        );
        println!(
            "            {:.2} ms of the server's CPU an image, {batch:.1} images a batch",
            self.load.server_cpu * 1e3
        );
        let (direct, served) = (&self.latency.direct, &self.latency.served);
        println!(
            "latency:    p50 {:.2} ms, p99 {:.2} ms; without a server {:.2} and {:.2}; p50 differs by {:.2} ms",
            percentile(served, 50),
            percentile(served, 99),
            percentile(direct, 50),
            percentile(direct, 99),
            percentile(served, 50) - percentile(direct, 50),
        );
    }

    fn json(&self) -> serde_json::Value {
        let cost = |cost: &Cost| json!({ "wall_ms": cost.wall * 1e3, "cpu_ms": cost.cpu * 1e3 });
        let times = |t: &[f64]| json!({ "p50_ms": percentile(t, 50), "p99_ms": percentile(t, 99) });
        json!({
            "prepare": cost(&self.prepare),
            "forward_single": cost(&self.single),
            "forward_batched": cost(&self.batched),
            "images_per_second": self.load.images_per_second,
            "possible_per_second": self.possible(),
            "ratio": self.load.images_per_second / self.possible(),
            "cores": self.cores,
            "client_cores": self.load.client_cores,
            "server_cpu_ms": self.load.server_cpu * 1e3,
            "mean_batch": self.load.batch,
            "latency": { "direct": times(&self.latency.direct), "served": times(&self.latency.served) },
        })
    }
}
