//! The real binary: commands that end, and servers on free ports.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;

/// The binary, with no setting from the environment.
pub fn resnetd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resnetd"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("RESNETD_") || text.starts_with("HF_") {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(args: &[&str]) -> Ran {
    resnetd().args(args).output().unwrap().into()
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// A file of tests/data.
pub fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(file)
}

/// A running `resnetd serve`; killed when dropped.
pub struct Process {
    child: Child,
    log: Arc<Log>,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
}

/// What the process has written to standard error.
#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    news: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    /// Standard error is closed: the process has ended.
    over: bool,
}

impl Process {
    /// Starts `resnetd serve` with these arguments on free ports and waits until it is ready.
    pub async fn serve(args: &[&str]) -> Self {
        let mut command = resnetd();
        command
            .args(["serve", "--http-addr", "127.0.0.1:0"])
            .args(args);
        Self::start(command).await
    }

    /// Starts a `serve` that has its HTTP address, and waits until it is ready.
    pub async fn start(mut command: Command) -> Self {
        command.args(["--grpc-addr", "127.0.0.1:0", "--log-format", "json"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Log::default());
        let (stderr, writer) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || writer.fill(stderr));
        let listening = log.wait_for("listening");
        let addr = |name: &str| listening[name].as_str().unwrap().parse().unwrap();
        let (http, grpc) = (addr("http"), addr("grpc"));
        let process = Self {
            child,
            log,
            http,
            grpc,
        };
        let started = Instant::now();
        while !process.is_ready().await {
            assert!(
                started.elapsed() < PATIENCE,
                "not ready: {}",
                process.stderr()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        process
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub async fn is_ready(&self) -> bool {
        reqwest::get(self.url("/readyz")).await.unwrap().status() == 200
    }

    pub async fn json(&self, path: &str) -> Value {
        let response = reqwest::get(self.url(path)).await.unwrap();
        response.json().await.unwrap()
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let response = reqwest::get(self.url("/metrics")).await.unwrap();
        response.text().await.unwrap()
    }

    /// Everything logged so far.
    pub fn stderr(&self) -> String {
        self.log.lines.lock().unwrap().lines.join("\n")
    }

    pub fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Whether the process has not ended.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the process to end by itself; with everything it has logged.
    pub async fn ended(mut self, limit: Duration) -> (ExitStatus, String) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < limit, "still runs: {}", self.stderr());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        self.log.wait_until(|lines| lines.over.then_some(()));
        (status, self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // both fail only for a process that has ended
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    fn fill(&self, stderr: ChildStderr) {
        for line in BufReader::new(stderr).lines() {
            self.lines.lock().unwrap().lines.push(line.unwrap());
            self.news.notify_all();
        }
        self.lines.lock().unwrap().over = true;
        self.news.notify_all();
    }

    /// The first line with this message.
    fn wait_for(&self, message: &str) -> Value {
        self.wait_until(|lines| {
            let mut parsed = lines.lines.iter().map(|line| serde_json::from_str(line));
            let found = parsed.find_map(|line: Result<Value, _>| {
                line.ok().filter(|line| line["message"] == message)
            });
            assert!(
                found.is_some() || !lines.over,
                "ended: {}",
                lines.lines.join("\n")
            );
            found
        })
    }

    fn wait_until<T>(&self, condition: impl Fn(&Lines) -> Option<T>) -> T {
        let started = Instant::now();
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(found) = condition(&lines) {
                return found;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "not said: {}",
                lines.lines.join("\n")
            );
            lines = self.news.wait_timeout(lines, PATIENCE).unwrap().0;
        }
    }
}
