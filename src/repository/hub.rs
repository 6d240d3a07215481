//! Files of the Hugging Face hub, through hf-hub and the cache that Python's huggingface_hub shares.
//!
//! hf-hub answers from the cache whatever the hub has by now, waits for ever on a silent peer and panics on some odd
//! answers. So the hub is asked which commit a revision is now, the cache answers when the hub cannot be reached, and
//! the transfer runs on a thread of its own that is given up when no bytes come.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::RepositoryError;

/// Where the hub and its cache are; [`Default`] is the public hub and `~/.cache/huggingface/hub`.
#[derive(Clone, Default)]
pub struct HubConfig {
    /// `HF_ENDPOINT`
    pub endpoint: Option<String>,
    /// `HF_TOKEN`; when absent, the token that `hf auth login` left beside the cache.
    pub token: Option<String>,
    /// `HF_HUB_CACHE`, or `HF_HOME` and `hub`.
    pub cache_dir: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`: only the cache.
    pub offline: bool,
}

impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "redacted"))
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .finish()
    }
}

/// Files of one commit, in the cache.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) config: PathBuf,
    pub(super) weights: PathBuf,
    pub(super) commit: String,
}

const ENDPOINT: &str = "https://huggingface.co";
const CONFIG: &str = "config.json";
/// In the order they are tried.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// Longest silence of the hub.
const STALL: Duration = Duration::from_secs(60);
const RETRIES: usize = 2;

/// Brings config.json and the weights of one commit into the cache, or finds them there.
///
/// # Errors
/// Why not, and what to set where a setting would help; never the token.
pub(super) fn fetch(
    repo: &str,
    revision: Option<&str>,
    config: &HubConfig,
) -> Result<Snapshot, RepositoryError> {
    let hub = |reason| RepositoryError::Hub {
        repo: repo.to_owned(),
        reason,
    };
    let client = Client::new(repo, config).map_err(hub)?;
    let revision = revision.unwrap_or("main").to_owned();
    supervised(STALL, move |ticker| client.snapshot(&revision, &ticker)).map_err(hub)
}

struct Client {
    repo: String,
    cache: Cache,
    /// `None` offline.
    api: Option<Api>,
}

impl Client {
    fn new(repo: &str, config: &HubConfig) -> Result<Self, String> {
        let dir = match &config.cache_dir {
            Some(dir) => dir.clone(),
            None => std::env::home_dir()
                .ok_or("there is no home directory for the cache; set HF_HOME")?
                .join(".cache/huggingface/hub"),
        };
        let cache = Cache::new(dir);
        let mut builder = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint(config))
            .with_retries(RETRIES)
            .with_user_agent("resnetd", env!("CARGO_PKG_VERSION"));
        if let Some(token) = &config.token {
            builder = builder.with_token(Some(token.trim().to_owned()));
        }
        let api = if config.offline {
            None
        } else {
            Some(builder.build().map_err(|e| e.to_string())?)
        };
        Ok(Self {
            repo: repo.to_owned(),
            cache,
            api,
        })
    }

    fn snapshot(&self, revision: &str, ticker: &Ticker) -> Result<Snapshot, String> {
        let config = self
            .file(revision, CONFIG, ticker)?
            .ok_or_else(|| self.absent(CONFIG, revision))?;
        // snapshots/COMMIT/config.json; the weights are those of the same commit, even if the branch moves meanwhile
        let commit = config.parent().and_then(Path::file_name);
        let commit = commit
            .and_then(|name| name.to_str())
            .unwrap_or(revision)
            .to_owned();
        for name in WEIGHTS {
            if let Some(weights) = self.file(&commit, name, ticker)? {
                return Ok(Snapshot {
                    config,
                    weights,
                    commit,
                });
            }
        }
        Err(self.absent(&WEIGHTS.join(" or "), revision))
    }

    fn absent(&self, file: &str, revision: &str) -> String {
        if self.api.is_some() {
            return format!(
                "the hub has no {file} of that name at revision {revision}; check the spelling"
            );
        }
        format!(
            "{file} of revision {revision} is not in the cache {}, and the hub is not asked while HF_HUB_OFFLINE is set",
            self.cache.path().display()
        )
    }

    /// Path in the cache of one file; `None` where there is no such file.
    fn file(&self, revision: &str, name: &str, ticker: &Ticker) -> Result<Option<PathBuf>, String> {
        let repo = || Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_owned());
        let cache = self.cache.repo(repo());
        let pinned = cache.pointer_path(revision).join(name);
        if is_commit(revision) && pinned.exists() {
            return Ok(Some(pinned));
        }
        let Some(api) = &self.api else {
            return Ok(cache.get(name));
        };
        let remote = api.repo(repo());
        ticker.tick();
        let metadata = match api.metadata(&remote.url(name)) {
            Ok(metadata) => metadata,
            Err(error) if status(&error) == Some(404) => return Ok(None),
            Err(error) => {
                return match cache.get(name) {
                    Some(path) if matches!(status(&error), None | Some(429 | 500..)) => {
                        tracing::warn!(repo = self.repo, file = name, %error, "the hub does not answer; using the cache");
                        Ok(Some(path))
                    }
                    _ => Err(words(&error)),
                };
            }
        };
        // both become file names in the cache
        if ![metadata.etag(), metadata.commit_hash()]
            .iter()
            .all(|word| is_hash(word))
        {
            return Err("the hub's answer has an ETag or commit that is not a hash".to_owned());
        }
        let path = cache.pointer_path(metadata.commit_hash()).join(name);
        if path.exists() {
            cache
                .create_ref(metadata.commit_hash())
                .map_err(|e| self.unwritable(&e))?;
            return Ok(Some(path));
        }
        tracing::info!(
            repo = self.repo,
            file = name,
            bytes = metadata.size(),
            "downloading"
        );
        let path = remote
            .download_with_progress(name, ticker.clone())
            .map_err(|error| match error {
                ApiError::IoError(e) => self.unwritable(&e),
                error => words(&error),
            })?;
        let found = std::fs::metadata(&path).map_or(0, |m| m.len());
        if found != metadata.size() as u64 {
            // a cut transfer must not stay in the cache as the file
            let _ = std::fs::canonicalize(&path).and_then(std::fs::remove_file);
            let _ = std::fs::remove_file(&path);
            return Err(format!(
                "{name} came with {found} of {} bytes",
                metadata.size()
            ));
        }
        Ok(Some(path))
    }

    fn unwritable(&self, error: &std::io::Error) -> String {
        format!(
            "a file cannot be brought into the cache {}: {error}; HF_HOME sets another place",
            self.cache.path().display()
        )
    }
}

fn endpoint(config: &HubConfig) -> String {
    let endpoint = config.endpoint.as_deref().unwrap_or(ENDPOINT);
    endpoint.trim_end_matches('/').to_owned()
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_hash(word: &str) -> bool {
    (1..=200).contains(&word.len())
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The HTTP status that made a request fail; `None` when no answer came.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

fn words(error: &ApiError) -> String {
    match status(error) {
        Some(status @ (401 | 403)) => format!(
            "the hub refuses access (HTTP {status}): the repository does not exist, or it is private or gated and \
             HF_TOKEN is not set to a token that may read it"
        ),
        _ => format!("the hub cannot be used: {error}"),
    }
}

/// Says that the transfer is alive.
#[derive(Clone)]
struct Ticker(SyncSender<()>);

impl Ticker {
    fn tick(&self) {
        // a full channel holds a tick already
        let _ = self.0.try_send(());
    }
}

impl Progress for Ticker {
    fn init(&mut self, _size: usize, _filename: &str) {}

    fn update(&mut self, _size: usize) {
        self.tick();
    }

    fn finish(&mut self) {}
}

/// Runs `work` on its own thread until it ends, panics, or does not tick for `stall`; then the thread is left behind.
fn supervised<T: Send + 'static>(
    stall: Duration,
    work: impl FnOnce(Ticker) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (ticker, ticks) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("hub".to_owned())
        .spawn(move || work(Ticker(ticker)))
        .map_err(|e| format!("no thread for the transfer: {e}"))?;
    loop {
        match ticks.recv_timeout(stall) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("the hub sent nothing for {} s", stall.as_secs()));
            }
        }
    }
    thread
        .join()
        .unwrap_or_else(|_| Err("the hub's answer is not one that hf-hub can use".to_owned()))
}

#[cfg(test)]
mod tests;
