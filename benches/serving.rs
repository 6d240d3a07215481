//! Serving end to end, against the same work without a server: `cargo bench --bench serving -- --photos DIR`, where DIR
//! holds JPEG files.
//!
//! Starts the real binary with generated weights and asks it over HTTP on this machine. Throughput is compared with what
//! the cores could do if decoding, preprocessing and the forward pass were all there is, less the cores that the clients
//! take; the latency of one request at a time with those three one after another. Weights do not matter to speed.

#[path = "../tests/common/mod.rs"]
mod common;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use resnetd::engine::EngineOptions;
use resnetd::imaging;
use resnetd::pool::Pool;
use resnetd::repository::{self, LoadedModel, ModelSpec};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::sleep;

use common::process::Process;
use common::{metric, weights};

const WARM_UP: Duration = Duration::from_secs(2);

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
    let mut direct = Direct::load(&spec, threads)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (load, latency) = runtime.block_on(async {
        let threads = threads.to_string();
        let server = Process::serve(&["--model", &spec, "--threads", &threads]).await;
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
    let info = direct.model.engine.info();
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

/// CPU-seconds that a process has used so far, of all its threads.
fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // the name, in parentheses, may hold anything; after it the 12th and 13th fields are user and system time
    let fields = stat.rsplit_once(") ").context("no name in stat")?.1;
    let ticks: Vec<f64> = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // Linux counts them in hundredths on every architecture
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// The work of a request without a server.
struct Direct {
    model: LoadedModel,
    /// One preprocessed image after another.
    input: Vec<f32>,
    logits: Vec<f32>,
}

impl Direct {
    fn load(spec: &str, threads: NonZeroUsize) -> Result<Self> {
        let spec: ModelSpec = spec.parse()?;
        let engine = EngineOptions {
            pool: Some(Arc::new(Pool::new(threads)?)),
            ..EngineOptions::default()
        };
        let config = repository::Config {
            engine,
            ..repository::Config::default()
        };
        Ok(Self {
            model: repository::load(&spec, &config)?,
            input: Vec::new(),
            logits: Vec::new(),
        })
    }

    fn prepare(&self, photo: &[u8]) -> Result<Vec<f32>> {
        let image = imaging::decode(photo, &imaging::Config::default())?;
        Ok(self.model.preprocessing.apply(&image)?)
    }

    /// Decodes and preprocesses on this thread; returns how many images.
    fn prepare_all(&self, photos: &[Bytes]) -> Result<u64> {
        for photo in photos {
            self.prepare(photo)?;
        }
        Ok(photos.len() as u64)
    }

    /// Runs a batch of copies of the last image; returns how many.
    fn forward(&mut self, batch: usize) -> Result<u64> {
        let image = self.model.graph.input().elements();
        if self.input.len() != batch * image {
            self.input = (0..batch * image).map(|i| self.input[i % image]).collect();
        }
        self.logits.resize(batch * self.model.graph.classes(), 0.0);
        self.model
            .engine
            .forward(batch, &self.input, &mut self.logits)?;
        Ok(batch as u64)
    }

    /// Decodes, preprocesses and runs a batch of one.
    fn classify(&mut self, photo: &[u8]) -> Result<()> {
        self.input = self.prepare(photo)?;
        self.forward(1)?;
        Ok(())
    }
}

/// Seconds per image.
struct Cost {
    wall: f64,
    cpu: f64,
}

impl Cost {
    /// Repeats what says how many images it did.
    fn of(seconds: Duration, mut work: impl FnMut() -> Result<u64>) -> Result<Self> {
        work()?;
        let (started, cpu, mut images) = (Instant::now(), cpu_seconds(std::process::id())?, 0);
        while images == 0 || started.elapsed() < seconds {
            images += work()?;
        }
        let images = images as f64;
        Ok(Self {
            wall: started.elapsed().as_secs_f64() / images,
            cpu: (cpu_seconds(std::process::id())? - cpu) / images,
        })
    }
}

/// One keep-alive connection.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Client {
    async fn connect(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: server.to_string(),
        })
    }

    async fn classify(&mut self, photo: Bytes) -> Result<()> {
        self.sender.ready().await?;
        let request = Request::post("/classify")
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "image/jpeg")
            .body(Full::new(photo))?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == 200, "{status}: {}", body.escape_ascii());
        Ok(())
    }
}

/// What many clients at a time get.
struct Load {
    images_per_second: f64,
    /// Mean size of the server's batches.
    batch: f64,
    /// CPU-seconds per image.
    server_cpu: f64,
    /// CPU-seconds per second.
    client_cores: f64,
}

impl Load {
    async fn measure(
        server: &Process,
        photos: &[Bytes],
        clients: usize,
        seconds: Duration,
    ) -> Result<Self> {
        let answered = Arc::new(AtomicU64::new(0));
        let mut running = tokio::task::JoinSet::new();
        for first in 0..clients {
            let mut client = Client::connect(server.http).await?;
            // each begins elsewhere, so that they do not all send the same
            let mut own = photos.to_vec();
            own.rotate_left(first * photos.len() / clients);
            let answered = Arc::clone(&answered);
            running.spawn(async move {
                for photo in own.into_iter().cycle() {
                    client.classify(photo).await?;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        sleep(WARM_UP).await;
        let before = Sample::take(server, &answered).await?;
        sleep(seconds).await;
        let after = Sample::take(server, &answered).await?;
        // a client goes on until it fails
        if let Some(failed) = running.try_join_next() {
            failed??;
        }
        let images = (after.answered - before.answered) as f64;
        let elapsed = (after.at - before.at).as_secs_f64();
        Ok(Self {
            images_per_second: images / elapsed,
            batch: (after.batched - before.batched) / (after.batches - before.batches),
            server_cpu: (after.server_cpu - before.server_cpu) / images,
            client_cores: (after.client_cpu - before.client_cpu) / elapsed,
        })
    }
}

/// Counts at one moment.
struct Sample {
    at: Instant,
    answered: u64,
    server_cpu: f64,
    client_cpu: f64,
    batches: f64,
    batched: f64,
}

impl Sample {
    async fn take(server: &Process, answered: &AtomicU64) -> Result<Self> {
        let metrics = server.metrics().await;
        Ok(Self {
            at: Instant::now(),
            answered: answered.load(Ordering::Relaxed),
            server_cpu: cpu_seconds(server.id())?,
            client_cpu: cpu_seconds(std::process::id())?,
            batches: metric(&metrics, "resnetd_batch_size_count", &[]),
            batched: metric(&metrics, "resnetd_batch_size_sum", &[]),
        })
    }
}

/// Seconds of one image at a time, sorted.
#[derive(Default)]
struct Latency {
    direct: Vec<f64>,
    served: Vec<f64>,
}

impl Latency {
    /// Goes through the photographs without and with the server in turn, so that both see the same machine.
    async fn measure(
        server: &Process,
        photos: &[Bytes],
        direct: &mut Direct,
        seconds: Duration,
    ) -> Result<Self> {
        let mut client = Client::connect(server.http).await?;
        let mut latency = Self::default();
        direct.classify(&photos[0])?;
        let started = Instant::now();
        while latency.served.is_empty() || started.elapsed() < 2 * seconds {
            for photo in photos {
                let begun = Instant::now();
                direct.classify(photo)?;
                latency.direct.push(begun.elapsed().as_secs_f64());
            }
            for photo in photos {
                let begun = Instant::now();
                client.classify(photo.clone()).await?;
                latency.served.push(begun.elapsed().as_secs_f64());
            }
        }
        latency.direct.sort_by(f64::total_cmp);
        latency.served.sort_by(f64::total_cmp);
        Ok(latency)
    }
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
