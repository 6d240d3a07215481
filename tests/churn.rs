//! 300 load, unload and reload calls of one model while another answers: nothing fails and nothing is kept.
//!
//! Alone in its binary, because it measures the memory of its own process.

mod common;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{PATIENCE, eventually, weights};
use resnetd::pool::Pool;
use resnetd::repository;
use resnetd::service::{
    self, Classifier, Classify, Code, Input, Priority, Request, ServedModel, Sources,
};
use resnetd::telemetry::Metrics;
use resnetd::{batching, imaging};
use tokio::sync::RwLock;

/// Large enough that a huge page more or less is not the 5% that are measured: the allocator keeps up to two.
const STEADY: &str = "resnet18";
const CHURNED: &str = "churned";
/// Of three calls each.
const CYCLES: usize = 100;
/// Cycles before the first measurement: allocators have filled their caches by then.
const WARM_UP: usize = 20;
/// The memory of an engine is given back by its own thread, a moment after the call.
const SETTLING: Duration = Duration::from_millis(300);
const CALLERS: usize = 3;
/// What memory may grow by, of what it was.
const GROWTH: f64 = 0.05;

#[derive(Clone, Copy)]
enum Call {
    Load,
    Unload,
}

/// The one place that makes a call of the life cycle.
async fn call(classifier: &Classifier, call: Call) {
    match call {
        Call::Load => classifier.load(CHURNED).await,
        Call::Unload => classifier.unload(CHURNED).await,
    }
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_calls_fail_nobody_and_keep_nothing() {
    let directory = tempfile::tempdir().unwrap();
    weights::folder(&directory.path().join(CHURNED), "resnet32", "w.safetensors");
    let weights = directory.path().join("steady.safetensors");
    std::fs::write(&weights, weights::safetensors(STEADY)).unwrap();
    let steady = format!("{STEADY}={}", weights.display());
    let classifier = serve(Sources {
        named: vec![steady.parse().unwrap()],
        directory: Some(directory.path().to_owned()),
        repository: repository::Config::default(),
        ..Sources::default()
    });
    let (stop, answered): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
    let traffic: Arc<RwLock<()>> = Arc::default();
    let callers = [(); CALLERS].map(|()| {
        let (classifier, stop) = (Arc::clone(&classifier), Arc::clone(&stop));
        let (answered, traffic) = (Arc::clone(&answered), Arc::clone(&traffic));
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let _flowing = traffic.read().await;
                classify(&classifier, STEADY).await;
                answered.fetch_add(1, Ordering::SeqCst);
            }
        })
    });

    let mut resident = Vec::new();
    for cycle in 0..CYCLES {
        let before = answered.load(Ordering::SeqCst);
        call(&classifier, Call::Load).await;
        classify(&classifier, CHURNED).await;
        call(&classifier, Call::Load).await;
        let served = Arc::downgrade(&classify(&classifier, CHURNED).await);
        call(&classifier, Call::Unload).await;
        eventually("the model is gone", || served.upgrade().is_none()).await;
        eventually("the other answers", || {
            answered.load(Ordering::SeqCst) > before
        })
        .await;
        if (cycle + 1) % WARM_UP == 0 {
            // at rest, and after an unload at rest: what passes through the process is not what it keeps
            let _still = traffic.write().await;
            call(&classifier, Call::Load).await;
            call(&classifier, Call::Unload).await;
            tokio::time::sleep(SETTLING).await;
            resident.push(resident_mib());
        }
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.expect("no request failed");
    }
    let answered = answered.load(Ordering::SeqCst);
    println!("{answered} answered meanwhile, resident MiB {resident:.1?}");
    let (first, last) = (resident[0], resident[resident.len() - 1]);
    assert!(
        last <= first * (1.0 + GROWTH),
        "resident MiB {resident:.1?}"
    );
}

fn serve(sources: Sources) -> Arc<Classifier> {
    let pool = Arc::new(Pool::new(NonZeroUsize::new(2).unwrap()).unwrap());
    let mut sources = sources;
    sources.repository.engine.pool = Some(Arc::clone(&pool));
    let config = service::Config {
        default_model: None,
        pool,
        imaging: imaging::Config::default(),
        batching: batching::Config::default(),
    };
    let metrics = Metrics::new(&Code::ALL.map(Code::as_str));
    let classifier = Classifier::new(config, metrics).with_sources(sources);
    classifier.load_announced().unwrap();
    Arc::new(classifier)
}

/// Sends one image and returns the model that answered.
async fn classify(classifier: &Classifier, model: &str) -> Arc<ServedModel> {
    let image = common::process::data("preprocess/tiny.png");
    let image = Bytes::from(std::fs::read(image).unwrap());
    let received = Instant::now();
    let request = Request {
        inputs: vec![Input::Encoded(image)],
        priority: Priority::default(),
        received,
        deadline: received + PATIENCE,
    };
    let admission = classifier.admit(Some(model), 1).unwrap();
    let reply = classifier.infer(admission, request).await.unwrap();
    assert!(reply.results[0].is_ok());
    reply.model
}

/// What the process occupies of the machine's memory, counted page by page: the sums in `status` are rounded by some
/// 64 pages a thread.
fn resident_mib() -> f64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Rss:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<f64>().unwrap() / 1024.0
}
