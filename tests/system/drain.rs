//! SIGTERM under load, with the real binary.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::{Ask, Client};
use super::common::eventually;
use super::common::process::{Process, data};

/// Longer than a client on a busy machine takes from hearing that the server is ready to sending it a request.
const DRAIN_DELAY: Duration = Duration::from_secs(4);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn nobody_who_honours_readiness_is_failed() {
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    let (delay, timeout) = (seconds(DRAIN_DELAY), seconds(DRAIN_TIMEOUT));
    let process = Process::serve(&["--drain-delay", &delay, "--drain-timeout", &timeout]).await;
    let image = Bytes::from(std::fs::read(data("preprocess/coffee_420.jpg")).unwrap());
    let answered: Arc<[AtomicUsize; 8]> = Arc::default();
    let mut clients = Vec::new();
    for i in 0..answered.len() {
        let (answered, image) = (Arc::clone(&answered), image.clone());
        let client = Client::new(process.http, process.grpc);
        let readiness = Readiness::new(&process, i % 2 == 0).await;
        clients.push(tokio::spawn(async move {
            while readiness.is_ready().await {
                let ask = Ask {
                    images: vec![image.clone(); 3],
                    model: None,
                };
                let answer = match i % 2 {
                    0 => client.form(ask).await,
                    _ => client.unary(ask).await,
                };
                assert!(answer.unwrap().iter().all(Result::is_ok));
                answered[i].fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    let served = || {
        answered
            .iter()
            .all(|count| count.load(Ordering::SeqCst) >= 3)
    };
    eventually("every client is served", served).await;
    let stopped = Instant::now();
    process.terminate();
    for client in clients {
        client.await.expect("no request failed");
    }
    let (addresses, limit) = ([process.http, process.grpc], DRAIN_DELAY + DRAIN_TIMEOUT);
    let (status, log) = process.ended(limit).await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        stopped.elapsed() >= DRAIN_DELAY,
        "did not wait for balancers"
    );
    assert!(
        !log.contains("cancelled") && !log.contains("panicked"),
        "{log}"
    );
    for address in addresses {
        assert!(TcpStream::connect(address).await.is_err());
    }
}

/// How a client asks whether the server wants requests.
enum Readiness {
    Http(reqwest::Client, String),
    Grpc(HealthClient<Channel>),
}

impl Readiness {
    async fn new(process: &Process, over_http: bool) -> Self {
        if over_http {
            return Self::Http(reqwest::Client::new(), process.url("/readyz"));
        }
        let endpoint = Channel::from_shared(format!("http://{}", process.grpc)).unwrap();
        Self::Grpc(HealthClient::new(endpoint.connect().await.unwrap()))
    }

    async fn is_ready(&self) -> bool {
        match self {
            Self::Http(client, url) => client.get(url).send().await.unwrap().status() == 200,
            Self::Grpc(client) => {
                let request = HealthCheckRequest::default();
                let answer = client.clone().check(request).await.unwrap().into_inner();
                answer.status() == ServingStatus::Serving
            }
        }
    }
}
