//! The command line and its environment variables, composed into every room's own Config.
//!
//! The only reader of flags and environment. Every flag of `serve` is also `RESNETD_<FLAG>`; the flag wins.

use humantime::Duration;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::engine::{DeviceChoice, EngineChoice, EngineOptions, Isa, Precision};
use crate::pool::Pool;
use crate::repository::{self, HubConfig, ModelSpec};
use crate::telemetry::LogFormat;
use crate::{batching, imaging, server, service};

/// Image-classification inference server for residual networks and the families around them.
#[derive(Debug, Parser)]
#[command(name = "resnetd", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve models over HTTP and gRPC
    Serve(Box<ServeArgs>),
    /// Classify image files
    Classify(ClassifyArgs),
    /// Measure top-1 and top-5 accuracy on a folder of class folders
    Evaluate(EvaluateArgs),
    /// Time a network's forward pass on random input
    Bench(BenchArgs),
    /// Set architectures side by side: size and cost, speed on this machine, published accuracy
    Compare(CompareArgs),
    /// List the architectures with depth, size and cost, or one with its published weights
    Models(ModelsArgs),
}

#[derive(Debug, Args)]
pub struct LogArgs {
    /// How log lines are written to standard error
    #[arg(
        long,
        global = true,
        env = "RESNETD_LOG_FORMAT",
        default_value = "pretty"
    )]
    pub log_format: LogFormat,
    /// What is logged: a level, or directives such as resnetd=debug,hyper=warn
    #[arg(long, global = true, env = "RESNETD_LOG", default_value = "info")]
    pub log: String,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub models: ModelArgs,
    /// Look at the models' files this often [2s when no interval is given], and load, reload and unload what has changed; by polling, which network mounts and Kubernetes volumes need
    #[arg(
        long,
        env = "RESNETD_WATCH",
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = interval
    )]
    watch: Option<Duration>,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub images: ImageArgs,
    #[command(flatten)]
    batching: BatchArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which models.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Model to serve: a weight file (NAME is then an architecture, unless the file has the name of published weights), a model folder or one with a folder for each version, or hf:REPO[@REVISION]; repeatable, or several separated by commas
    #[arg(
        long,
        env = "RESNETD_MODEL",
        value_name = "NAME=SOURCE",
        value_delimiter = ','
    )]
    pub model: Vec<ModelSpec>,
    /// Serve every model folder in this directory: DIR/NAME/model.toml, or DIR/NAME/VERSION/model.toml
    #[arg(long, env = "RESNETD_MODEL_DIR", value_name = "DIR")]
    pub model_dir: Option<PathBuf>,
    /// Model that answers requests that name none [default: the first]
    #[arg(long, env = "RESNETD_DEFAULT_MODEL", value_name = "NAME")]
    pub default_model: Option<String>,
}

#[derive(Debug, Args)]
pub struct EngineArgs {
    /// Where models run: auto, cpu, cuda, cuda:N, several GPUs as in cuda:0,cuda:1, or cuda:all
    #[arg(long, env = "RESNETD_DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// What computes: candle, fused, or auto for the fused engine on a CPU and candle on a GPU
    #[arg(long, env = "RESNETD_ENGINE", default_value = "auto")]
    engine: EngineChoice,
    /// Widest instruction set of the fused engine: amx, avx512, avx2 or portable [default: the widest the CPU has]
    #[arg(long, env = "RESNETD_MAX_ISA", value_name = "ISA")]
    max_isa: Option<Isa>,
    /// Arithmetic of the fused engine: f32; bf16 on CPUs with AVX512_BF16 or AMX and on GPUs; tf32 or f16 on GPUs
    #[arg(long, env = "RESNETD_PRECISION", default_value = "f32")]
    precision: Precision,
    /// CPU threads for decoding and layers [default: the cores this process may use]
    #[arg(long, env = "RESNETD_THREADS")]
    threads: Option<NonZeroUsize>,
    /// Folder that keeps which algorithms the fused engine found to be the fastest on a GPU [default: resnetd in the user's cache folder]
    #[arg(long, env = "RESNETD_CUDA_CACHE", value_name = "DIR")]
    cuda_cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Images of more pixels than this are refused from their header
    #[arg(long, env = "RESNETD_MAX_IMAGE_PIXELS", default_value_t = imaging::Config::default().max_image_pixels)]
    max_image_pixels: u64,
}

#[derive(Debug, Args)]
struct BatchArgs {
    /// Largest batch
    #[arg(long, env = "RESNETD_MAX_BATCH", default_value_t = default_batching().max_batch, value_parser = at_least_1)]
    max_batch: usize,
    /// Longest an image waits for others to join its batch
    #[arg(long, env = "RESNETD_MAX_QUEUE_DELAY", default_value_t = default_batching().max_queue_delay.into())]
    max_queue_delay: Duration,
    /// Images of one model admitted and not yet answered
    #[arg(long, env = "RESNETD_MAX_QUEUE", default_value_t = default_batching().max_queue, value_parser = at_least_1)]
    max_queue: usize,
}

#[derive(Debug, Args)]
struct ServerArgs {
    /// Address of the HTTP server
    #[arg(long, env = "RESNETD_HTTP_ADDR", default_value_t = default_server().http_addr)]
    http_addr: SocketAddr,
    /// Address of the gRPC server
    #[arg(long, env = "RESNETD_GRPC_ADDR", default_value_t = default_server().grpc_addr)]
    grpc_addr: SocketAddr,
    /// Largest request body or gRPC message, in bytes
    #[arg(long, env = "RESNETD_MAX_BODY_BYTES", default_value_t = default_server().max_body_bytes)]
    max_body_bytes: usize,
    /// Most images in one request
    #[arg(long, env = "RESNETD_MAX_IMAGES_PER_REQUEST", default_value_t = default_server().max_images_per_request, value_parser = at_least_1)]
    max_images_per_request: usize,
    /// Longest a request may take
    #[arg(long, env = "RESNETD_REQUEST_TIMEOUT", default_value_t = default_server().request_timeout.into())]
    request_timeout: Duration,
    /// Longest the head of a request may take to arrive
    #[arg(long, env = "RESNETD_HEADER_TIMEOUT", default_value_t = default_server().header_timeout.into())]
    header_timeout: Duration,
    /// Longest pause within a request body
    #[arg(long, env = "RESNETD_BODY_TIMEOUT", default_value_t = default_server().body_timeout.into())]
    body_timeout: Duration,
    /// Connections without a request for this long are closed
    #[arg(long, env = "RESNETD_IDLE_TIMEOUT", default_value_t = default_server().idle_timeout.into())]
    idle_timeout: Duration,
    /// Most open connections, for HTTP and gRPC each
    #[arg(long, env = "RESNETD_MAX_CONNECTIONS", default_value_t = default_server().max_connections, value_parser = at_least_1)]
    max_connections: usize,
    /// Most concurrent gRPC calls on one connection
    #[arg(long, env = "RESNETD_MAX_CONCURRENT_STREAMS", default_value_t = default_server().max_concurrent_streams)]
    max_concurrent_streams: u32,
    /// gRPC connections older than this are asked to reconnect, so that a balancer can spread them; 0s: never
    #[arg(long, env = "RESNETD_MAX_CONNECTION_AGE", default_value_t = default_server().max_connection_age.unwrap_or_default().into())]
    max_connection_age: Duration,
    /// How long requests are still accepted after SIGTERM, while balancers notice /readyz
    #[arg(long, env = "RESNETD_DRAIN_DELAY", default_value_t = default_server().drain_delay.into())]
    drain_delay: Duration,
    /// Longest that accepted requests may take to finish after that
    #[arg(long, env = "RESNETD_DRAIN_TIMEOUT", default_value_t = default_server().drain_timeout.into())]
    drain_timeout: Duration,
}

/// The one model of a command without a server.
#[derive(Debug, Args)]
pub struct LocalArgs {
    #[command(flatten)]
    pub models: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub images: ImageArgs,
}

#[derive(Debug, Args)]
pub struct ClassifyArgs {
    /// Image files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Predictions per image
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub top_k: u8,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub local: LocalArgs,
}

#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Folder with one folder of images per class, named by label or in the order of the classes
    #[arg(long)]
    pub data: PathBuf,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub local: LocalArgs,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Architecture to time
    #[arg(long)]
    pub architecture: String,
    /// Weight file [default: generated weights]
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Images a batch
    #[arg(long, default_value = "1")]
    pub batch: NonZeroUsize,
    /// How long to measure, after two unmeasured batches
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Write `input` and `logits` of one measured batch to this safetensors file
    #[arg(long)]
    pub dump: Option<PathBuf>,
    /// Print one JSON object on the last line
    #[arg(long)]
    pub json: bool,
    /// Print what each layer takes (fused engine)
    #[arg(long)]
    pub profile: bool,
    /// Time the algorithms for each convolution instead, and print the lines of src/engine/cpu/algorithms.txt
    #[arg(long)]
    pub tune: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Architectures; * stands for any letters, as in 'resnet*' [default: all]
    pub names: Vec<String>,
    /// How long to measure each model's latency; the batches up to 32 take about as long again
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Print comma-separated values instead of the table
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    pub json: bool,
    /// Draw accuracy, cost and speed against each other, to a file that ends in .svg or .png
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Take the figures from what --json printed earlier, and measure nothing
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Show this architecture and the weights published for it
    pub name: Option<String>,
}

impl EngineArgs {
    pub fn options(&self, pool: &Arc<Pool>) -> EngineOptions {
        EngineOptions {
            device: self.device.clone(),
            precision: self.precision,
            engine: self.engine,
            max_isa: self.max_isa,
            pool: Some(Arc::clone(pool)),
            cuda_cache: self
                .cuda_cache
                .clone()
                .or_else(|| Some(cache_folder()?.join("resnetd"))),
        }
    }

    /// How models are loaded with these flags.
    pub fn repository(&self, pool: &Arc<Pool>) -> repository::Config {
        repository::Config {
            engine: self.options(pool),
            hub: hub(),
        }
    }

    /// `--threads`, or the cores that affinity and the cgroup's quota leave this process.
    pub fn threads(&self) -> NonZeroUsize {
        self.threads
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN)
    }
}

impl ImageArgs {
    pub fn imaging(&self) -> imaging::Config {
        imaging::Config {
            max_image_pixels: self.max_image_pixels,
        }
    }
}

impl ServeArgs {
    pub fn service(&self, pool: &Arc<Pool>) -> service::Config {
        let limits = &self.batching;
        service::Config {
            default_model: self.models.default_model.clone(),
            pool: Arc::clone(pool),
            imaging: self.images.imaging(),
            batching: batching::Config {
                max_batch: limits.max_batch,
                max_queue_delay: limits.max_queue_delay.into(),
                max_queue: limits.max_queue,
            },
        }
    }

    /// How often files are looked at, if they are.
    pub fn watch(&self) -> Option<std::time::Duration> {
        self.watch.map(Into::into)
    }

    pub fn server(&self) -> server::Config {
        let args = &self.server;
        server::Config {
            http_addr: args.http_addr,
            grpc_addr: args.grpc_addr,
            max_body_bytes: args.max_body_bytes,
            max_images_per_request: args.max_images_per_request,
            request_timeout: args.request_timeout.into(),
            header_timeout: args.header_timeout.into(),
            body_timeout: args.body_timeout.into(),
            idle_timeout: args.idle_timeout.into(),
            max_connections: args.max_connections,
            max_concurrent_streams: args.max_concurrent_streams,
            max_connection_age: Some(*args.max_connection_age).filter(|age| !age.is_zero()),
            drain_delay: args.drain_delay.into(),
            drain_timeout: args.drain_timeout.into(),
        }
    }
}

fn at_least_1(text: &str) -> Result<usize, String> {
    let number = text.parse::<NonZeroUsize>();
    number.map(NonZeroUsize::get).map_err(|e| e.to_string())
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = text.parse::<Duration>().map_err(|e| e.to_string())?;
    match interval.is_zero() {
        true => Err("it must be longer than nothing, as in 2s".to_owned()),
        false => Ok(interval),
    }
}

fn default_batching() -> batching::Config {
    batching::Config::default()
}

fn default_server() -> server::Config {
    server::Config::default()
}

/// An environment variable that is not empty.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where the user's programs keep what they can do without.
fn cache_folder() -> Option<PathBuf> {
    let folder = set("XDG_CACHE_HOME").map(PathBuf::from);
    folder.or_else(|| Some(std::env::home_dir()?.join(".cache")))
}

/// The Hugging Face hub's own environment variables.
fn hub() -> HubConfig {
    let path = |name: &str| set(name).map(PathBuf::from);
    let home = path("HF_HOME").or_else(|| Some(cache_folder()?.join("huggingface")));
    let token_file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")));
    let token = set("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file?).ok());
    HubConfig {
        endpoint: set("HF_ENDPOINT"),
        token: token
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty()),
        cache_dir: path("HF_HUB_CACHE").or_else(|| Some(home?.join("hub"))),
        offline: set("HF_HUB_OFFLINE").is_some_and(|value| {
            matches!(
                value.to_ascii_lowercase().as_str(),
                "1" | "on" | "yes" | "true"
            )
        }),
    }
}
