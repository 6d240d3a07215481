//! 2,000 mixed requests against the real binary and its embedded model.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::poll;
use hyper_util::rt::{TokioExecutor, TokioIo};
use resnetd::server::pb::ListModelsRequest;
use resnetd::server::pb::classifier_client::ClassifierClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::util::BoxService;

use super::client::{Answer, Ask, Client, ImageAnswer, message, within};
use super::common::process::Process;
use super::common::{PATIENCE, metric};
use super::mix::{Corpus, Job, MAX_BODY, MAX_PIXELS, Mix, Question, Tally, Way};

const SEED: u64 = 20_151_210;
const REQUESTS: usize = 2_000;
const CLIENTS: usize = 16;

/// What memory may grow by between the first tenth and the last. Nothing should be kept of a request, but the allocator
/// keeps freed pages in one arena per thread, and how full those get depends on which large images happen to be decoded
/// at once and on the largest batch yet. With some 30 MiB after the first tenth, 11 kB kept of each request would show,
/// which is less than most images here have.
const GROWTH: f64 = 0.1;
const SLACK: f64 = (16 << 20) as f64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_mixed_requests() {
    println!("seed {SEED}");
    let mut process = serve().await;
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::new(process.http, process.grpc))
        .collect();
    let corpus = Arc::new(answered_alone(&clients[0]).await);
    let alone = corpus.good.len() as u64;
    let mut mix = Mix {
        corpus: Arc::clone(&corpus),
        state: SEED,
    };
    let mut tally = Tally::default();
    let mut memory = Vec::new();
    let started = Instant::now();
    for tenth in 1..=10 {
        let jobs = mix.jobs(REQUESTS / 10);
        jobs.iter().for_each(|job| tally.add(job));
        work_off(&clients, &process, jobs).await;
        assert!(process.is_alive(), "{}", process.stderr());
        let text = settled(&process, alone + (REQUESTS / 10 * tenth) as u64).await;
        memory.push(metric(&text, "process_resident_memory_bytes", &[]));
    }
    let mib: Vec<f64> = memory.iter().map(|m| m / f64::from(1 << 20)).collect();
    println!("{:.1?}, resident MiB {mib:.1?}", started.elapsed());

    counts_agree(&process.metrics().await, &tally, alone);
    nothing_is_held(&clients, &corpus).await;
    let (first, last) = (memory[0], memory[9]);
    assert!(
        last <= first * (1.0 + GROWTH) + SLACK,
        "memory grew from tenth to tenth, in MiB: {mib:.1?}"
    );
    drop(clients);
    process.terminate();
    let (status, log) = process.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{log}");
    for word in ["panicked", "\"level\":\"ERROR\""] {
        assert!(!log.contains(word), "{log}");
    }
}

async fn serve() -> Process {
    let (pixels, body) = (MAX_PIXELS.to_string(), MAX_BODY.to_string());
    let limits = ["--max-image-pixels", &pixels, "--max-body-bytes", &body];
    let others = ["--threads", "2", "--request-timeout", "120s"];
    Process::serve(&[limits, others].concat()).await
}

/// The corpus with what the server says of each good image when it is sent alone.
async fn answered_alone(client: &Client) -> Corpus {
    let mut corpus = Corpus::new();
    for sample in &mut corpus.good {
        let answer = client.raw(Ask::one(sample.bytes.clone())).await;
        let answers = answer.unwrap_or_else(|error| panic!("{}: {error:?}", sample.name));
        sample.answer = answers.into_iter().next().unwrap();
        assert!(sample.answer.is_ok());
    }
    corpus
}

/// Every client takes jobs until none is left.
async fn work_off(clients: &[Client], process: &Process, jobs: Vec<Job>) {
    let jobs = Arc::new(Mutex::new(VecDeque::from(jobs)));
    let workers = clients.iter().map(|client| {
        let (client, jobs) = (client.clone(), Arc::clone(&jobs));
        let (http, grpc) = (process.http, process.grpc);
        tokio::spawn(async move {
            loop {
                let job = jobs.lock().unwrap().pop_front();
                match job {
                    Some(job) => work(&client, http, grpc, job).await,
                    None => break,
                }
            }
        })
    });
    for worker in join_all(workers).await {
        worker.unwrap();
    }
}

async fn work(client: &Client, http: SocketAddr, grpc: SocketAddr, job: Job) {
    match job {
        Job::Ask(question) => {
            let ask = question.ask.clone();
            let answer = match question.way {
                Way::Raw => client.raw(ask).await,
                Way::Form => client.form(ask).await,
                Way::Json => client.json(ask).await,
                Way::Unary => client.unary(ask).await,
                Way::Stream => unreachable!("streams are jobs of their own"),
            };
            is_right(&question, &answer);
        }
        Job::Stream(questions) => {
            let asks = questions.iter().map(|question| question.ask.clone());
            let answers = client.stream(asks.collect()).await;
            for (question, answer) in questions.iter().zip(&answers) {
                is_right(question, answer);
            }
        }
        Job::LeaveMidBody(image) => within(leave_http(http, &image, image.len() / 2)).await,
        Job::LeaveHttp(image) => within(leave_http(http, &image, image.len())).await,
        Job::LeaveGrpc(image) => within(leave_grpc(grpc, image)).await,
    }
}

fn is_right(question: &Question, answer: &Answer) {
    let right = match (&question.expected, answer) {
        (Ok(expected), Ok(found)) => {
            expected.len() == found.len() && expected.iter().zip(found).all(|(e, f)| is_same(e, f))
        }
        (expected, found) => expected == found,
    };
    assert!(
        right,
        "{:?}: expected {:?}, found {answer:?}",
        question.way, question.expected
    );
}

/// The same classes in the same order but for ties, with the same probabilities but for the rounding that depends on the
/// batch.
fn is_same(expected: &ImageAnswer, found: &ImageAnswer) -> bool {
    let (Ok(expected), Ok(found)) = (expected, found) else {
        return expected == found;
    };
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-5;
    let known = |class| expected.iter().find(|(other, _)| *other == class);
    expected.len() == found.len()
        && (expected[0].0 == found[0].0 || close(expected[0].1, expected[1].1))
        && expected.iter().zip(found).all(|(e, f)| close(e.1, f.1))
        && found
            .iter()
            .all(|(class, p)| known(*class).is_none_or(|(_, q)| close(*p, *q)))
}

/// Leaves when the server has begun to read the body, which it says with 100 Continue, and `sent` bytes are on their
/// way: one that leaves before is not seen as a request at all.
async fn leave_http(addr: SocketAddr, image: &[u8], sent: usize) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "POST /classify HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        image.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go = [0; 25];
    stream.read_exact(&mut go).await.unwrap();
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&image[..sent]).await.unwrap();
}

/// Leaves when another call of the same connection, sent after it, has been answered: the server knows of both then.
async fn leave_grpc(addr: SocketAddr, image: Bytes) {
    let stream = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (sender, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    let client = || {
        let sender = sender.clone();
        let call = move |request: http::Request<tonic::body::Body>| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        };
        let origin = format!("http://{addr}").parse().unwrap();
        ClassifierClient::with_origin(BoxService::new(tower::service_fn(call)), origin)
    };
    let (mut leaver, mut other) = (client(), client());
    {
        let mut left = pin!(leaver.classify(message(Ask::one(image), String::new())));
        assert!(poll!(left.as_mut()).is_pending());
        other.list_models(ListModelsRequest {}).await.unwrap();
    }
    // the reset goes out with the connection still open
    other.list_models(ListModelsRequest {}).await.unwrap();
    connection.abort();
}

/// The metrics once so many requests have come to their end: those whose caller left are still being noticed.
async fn settled(process: &Process, requests: u64) -> String {
    let started = Instant::now();
    loop {
        let text = process.metrics().await;
        let finished = metric(&text, "resnetd_requests_total", &[]) as u64;
        if finished >= requests && metric(&text, "resnetd_queue_depth", &[]) == 0.0 {
            return text;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{finished} of {requests} requests ended"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every request and every image is counted once, under its own code.
fn counts_agree(text: &str, tally: &Tally, alone: u64) {
    let count = |name: &str, labels: &[(&str, &str)]| metric(text, name, labels) as u64;
    let requests = |protocol: &str, code: &str| {
        count(
            "resnetd_requests_total",
            &[("protocol", protocol), ("code", code)],
        )
    };
    // those who left were answered all the same where the server was faster
    let (mut cancelled, mut in_time) = (0, 0);
    for protocol in ["http", "grpc"] {
        let first = if protocol == "http" { alone } else { 0 };
        let ok = tally.requests[&(protocol, "ok".to_owned())] + first;
        let left = tally.left[protocol];
        let gone = requests(protocol, "cancelled");
        assert!(
            gone <= left && gone > 0,
            "{protocol}: {gone} of {left} who left"
        );
        assert_eq!(requests(protocol, "ok") + gone, ok + left, "{protocol}");
        cancelled += gone;
        in_time += left - gone;
    }
    for ((protocol, code), &sent) in &tally.requests {
        if code != "ok" {
            assert_eq!(requests(protocol, code), sent, "{protocol} {code}");
        }
    }
    let sent = tally
        .requests
        .values()
        .chain(tally.left.values())
        .sum::<u64>()
        + alone;
    assert_eq!(
        sent,
        REQUESTS as u64 + alone,
        "the mix is what was asked for"
    );
    assert_eq!(count("resnetd_requests_total", &[]), sent);
    assert_eq!(
        count("resnetd_images_total", &[]),
        tally.images + alone + in_time
    );
    let rejected = |reason| count("resnetd_rejected_total", &[("reason", reason)]);
    for (reason, &images) in &tally.rejected {
        assert_eq!(rejected(reason), images, "{reason}");
    }
    assert_eq!(rejected("cancelled"), cancelled);
    assert_eq!(rejected("queue_full") + rejected("deadline"), 0);
}

/// Room for all 256 images of the queue: a ticket that was lost would be missed here.
async fn nothing_is_held(clients: &[Client], corpus: &Corpus) {
    let small = corpus
        .good
        .iter()
        .min_by_key(|sample| sample.bytes.len())
        .unwrap();
    let ask = Ask {
        images: vec![small.bytes.clone(); 64],
        model: None,
    };
    let asking = clients
        .iter()
        .take(4)
        .map(|client| client.unary(ask.clone()));
    for answer in join_all(asking).await {
        let answers = answer.unwrap();
        assert_eq!(answers.len(), 64);
        assert!(answers.iter().all(|answer| is_same(&small.answer, answer)));
    }
}
