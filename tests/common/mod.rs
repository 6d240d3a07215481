//! A whole server in this process: real sockets, real decoding and batching, and an engine that tells colours apart
//! and does as the test says.

#![allow(dead_code, unreachable_pub)] // every test binary uses its own part

pub mod process;
pub mod weights;

use std::io::Cursor;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use resnetd::batching;
use resnetd::engine::{Batch, Best, Engine, EngineError, EngineInfo, Ran, Wanted, gather};
use resnetd::families::Architecture;
use resnetd::imaging::{self, Interpolation, Preprocessing};
use resnetd::ir::{Builder, DepthRule, Graph, Shape};
use resnetd::pool::Pool;
use resnetd::repository::{LoadedModel, Provenance};
use resnetd::server::{Bound, Config, Ended, ServeError, Server, Stop};
use resnetd::service::{self, Classifier, Classify, Code};
use resnetd::telemetry::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Longer than anything takes on a busy machine; a test that waits this long fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const RED: [u8; 3] = [250, 10, 10];
pub const GREEN: [u8; 3] = [10, 250, 10];
pub const BLUE: [u8; 3] = [10, 10, 250];

static COLOURS: Architecture = Architecture {
    name: "colours7",
    family: "colours",
    year: 2015,
    depth: 7,
    depth_rule: DepthRule::LongestPath,
    input_size: 8,
    classes: 3,
    build: build_colours,
    unscaled: None,
};

fn build_colours(input: Shape, classes: usize) -> Result<Graph, String> {
    let (mut builder, x) = Builder::new(input);
    let pooled = builder.global_avg_pool(x);
    let flat = builder.flatten(pooled);
    builder.linear("fc", flat, classes);
    builder.finish()
}

/// What the test says to an engine.
#[derive(Default)]
pub struct Remote {
    held: Mutex<bool>,
    released: Condvar,
    failing: AtomicBool,
    lost: AtomicBool,
    executed: AtomicUsize,
    ranked: AtomicUsize,
}

/// Logits are the means of the colours.
struct Colours {
    info: EngineInfo,
    remote: Arc<Remote>,
}

/// Serves `m` at first; other models are loaded by the test.
pub struct TestServer {
    pub bound: Bound,
    pub classifier: Arc<Classifier>,
    pub metrics: Arc<Metrics>,
    pub engine: Arc<Remote>,
    pub stop: Stop,
    pub serving: JoinHandle<Result<Ended, ServeError>>,
}

impl Remote {
    /// The next batch waits until it is released.
    pub fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.held.lock().unwrap() = false;
        self.released.notify_all();
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// The device answers no more, and takes every engine on it along.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    /// Images whose batch has begun, the warm-up not counted.
    pub fn executed(&self) -> usize {
        self.executed.load(Ordering::SeqCst)
    }

    /// Those whose best classes alone were wanted.
    pub fn ranked(&self) -> usize {
        self.ranked.load(Ordering::SeqCst)
    }
}

impl Engine for Colours {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn forward(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<(), EngineError> {
        self.remote.executed.fetch_add(batch, Ordering::SeqCst);
        let held = self.remote.held.lock().unwrap();
        drop(self.remote.released.wait_while(held, |held| *held).unwrap());
        if self.remote.failing.load(Ordering::SeqCst) {
            return Err(EngineError::Device("the test says so".into()));
        }
        if self.remote.lost.load(Ordering::SeqCst) {
            return Err(EngineError::Lost("the test took it away".into()));
        }
        for (plane, logit) in input.chunks_exact(64).zip(logits) {
            *logit = 10.0 * plane.iter().sum::<f32>() / 64.0;
        }
        Ok(())
    }

    /// Finds the best itself, as a card does: whoever wants logits has to say so.
    fn forward_images(
        &mut self,
        batch: &Batch<'_>,
        staging: &mut Vec<f32>,
        logits: &mut [f32],
    ) -> Result<Ran, EngineError> {
        let started = Instant::now();
        gather(batch.images, batch.normalization, staging)?;
        let gathered = started.elapsed();
        self.forward(batch.images.len(), staging, logits)?;
        let best = match batch.wanted {
            Wanted::Logits => None,
            Wanted::Best(k) => {
                let images = batch.images.len();
                self.remote.ranked.fetch_add(images, Ordering::SeqCst);
                let rows = logits.chunks_exact(3);
                Some(rows.map(|logits| Best::of(logits, k)).collect())
            }
        };
        Ok(Ran { gathered, best })
    }
}

/// A model called `name` and the remote of its engine.
pub fn colours(name: &str) -> (LoadedModel, Arc<Remote>) {
    let remote = Arc::new(Remote::default());
    let engine = Colours {
        info: EngineInfo {
            engine: "fake",
            precision: "f32",
            isa: "none",
            device: "cpu".into(),
        },
        remote: Arc::clone(&remote),
    };
    let model = LoadedModel {
        name: name.into(),
        version: "3".into(),
        architecture: &COLOURS,
        graph: Arc::new((COLOURS.build)(Shape::new(3, 8, 8), 3).unwrap()),
        labels: ["red", "green", "blue"].map(String::from).into(),
        preprocessing: Preprocessing {
            resize: 8,
            crop: 8,
            interpolation: Interpolation::Bilinear,
            mean: [0.5; 3],
            std: [1.0; 3],
        },
        provenance: Provenance::default(),
        engines: vec![Box::new(engine)],
    };
    (model, remote)
}

/// Limits small enough for tests; nothing waits long but requests.
pub fn config() -> Config {
    Config {
        http_addr: ([127, 0, 0, 1], 0).into(),
        grpc_addr: ([127, 0, 0, 1], 0).into(),
        max_body_bytes: 256 << 10,
        max_images_per_request: 4,
        request_timeout: PATIENCE,
        drain_delay: Duration::from_millis(50),
        drain_timeout: PATIENCE,
        ..Config::default()
    }
}

impl TestServer {
    pub async fn start() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: Config) -> Self {
        Self::stopped_by(config, Stop::new()).await
    }

    pub async fn stopped_by(config: Config, stop: Stop) -> Self {
        let server = Self::bind(config, stop).await;
        let (model, engine) = colours("m");
        server.classifier.load_model(model).unwrap();
        engine.executed.store(0, Ordering::SeqCst);
        Self { engine, ..server }
    }

    /// A server whose model `m` is still loading; `engine` is nobody's.
    pub async fn loading(config: Config) -> Self {
        Self::bind(config, Stop::new()).await
    }

    /// The same with batches of up to `max_batch` and room for `max_queue` images.
    pub async fn batching(config: Config, max_batch: usize, max_queue: usize) -> Self {
        let batching = batching::Config {
            max_batch,
            max_queue_delay: Duration::from_millis(1),
            max_queue,
        };
        Self::bind_with(config, Stop::new(), batching).await
    }

    async fn bind(config: Config, stop: Stop) -> Self {
        let batching = batching::Config {
            max_batch: 4,
            max_queue_delay: Duration::from_millis(1),
            max_queue: 8,
        };
        Self::bind_with(config, stop, batching).await
    }

    async fn bind_with(config: Config, stop: Stop, batching: batching::Config) -> Self {
        let metrics = Metrics::new(&Code::ALL.map(Code::as_str));
        let service = service::Config {
            default_model: None,
            pool: Arc::new(Pool::new(NonZeroUsize::new(2).unwrap()).unwrap()),
            imaging: imaging::Config {
                max_image_pixels: 400,
            },
            batching,
        };
        let classifier = Arc::new(Classifier::new(service, Arc::clone(&metrics)));
        classifier.mark_loading("m");
        let server = Server::bind(config).await.unwrap();
        Self {
            bound: server.bound(),
            serving: tokio::spawn(server.serve(classifier.clone(), metrics.clone(), stop.clone())),
            classifier,
            metrics,
            engine: Arc::default(),
            stop,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.bound.http)
    }

    /// Waits for the end of serving.
    pub async fn ended(self) -> Ended {
        let ended = tokio::time::timeout(PATIENCE, self.serving).await;
        ended.expect("the server ends").unwrap().unwrap()
    }

    /// The sum of a metric's series that have these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metric(&self.metrics.render(), name, labels)
    }

    /// Images that model `m` has admitted and not answered; at most 8.
    pub fn admitted(&self) -> usize {
        let admission = self.classifier.admit(Some("m"), 0).unwrap();
        admission.model.batcher.load().admitted
    }

    /// Requests finished with this outcome.
    pub fn requests(&self, protocol: &str, code: &str) -> f64 {
        self.metric(
            "resnetd_requests_total",
            &[("protocol", protocol), ("code", code)],
        )
    }
}

/// The sum of a metric's series that have these labels, in the text of `/metrics`.
pub fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
    let lines = text.lines().filter(|line| {
        let series = line.split(['{', ' ']).next();
        series == Some(name) && labels.iter().all(|label| line.contains(label))
    });
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// A PNG of one colour, 8 x 8 pixels.
pub fn png(colour: [u8; 3]) -> Vec<u8> {
    png_of(colour, 8)
}

/// A PNG of one colour and `side` x `side` pixels.
pub fn png_of(colour: [u8; 3], side: u32) -> Vec<u8> {
    let image = image::RgbImage::from_pixel(side, side, image::Rgb(colour));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Opens a connection, sends `bytes` and reads what comes back until the server closes or a whole response with a
/// content-length is there.
pub async fn exchange(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_response(&mut stream).await
}

/// Reads one response; what came before the server closed where there is no whole one.
pub async fn read_response(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let reading = async {
        while !is_whole(&received) && matches!(stream.read_buf(&mut received).await, Ok(1..)) {}
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("a response");
    String::from_utf8_lossy(&received).into_owned()
}

fn is_whole(response: &[u8]) -> bool {
    let text = String::from_utf8_lossy(response);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
