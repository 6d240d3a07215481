//! Clients of the server, and what they get.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::common::metric;
use super::common::process::Process;
use super::direct::{Direct, cpu_seconds};

/// From the first request of the clients to where counting begins, and from the last to where the server is idle.
const SETTLING: Duration = Duration::from_secs(2);

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
pub struct Load {
    pub images_per_second: f64,
    /// Mean size of the server's batches.
    pub batch: f64,
    /// CPU-seconds per image.
    pub server_cpu: f64,
    /// CPU-seconds per second.
    pub client_cores: f64,
}

impl Load {
    pub async fn measure(
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
        sleep(SETTLING).await;
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
pub struct Latency {
    pub direct: Vec<f64>,
    pub served: Vec<f64>,
}

impl Latency {
    /// Goes through the photographs without and with the server in turn, so that both see the same machine.
    pub async fn measure(
        server: &Process,
        photos: &[Bytes],
        direct: &mut Direct,
        seconds: Duration,
    ) -> Result<Self> {
        let mut client = Client::connect(server.http).await?;
        let mut latency = Self::default();
        sleep(SETTLING).await;
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
