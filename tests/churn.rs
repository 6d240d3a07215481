//! 300 load, unload and reload calls of one model over HTTP while another answers: nothing fails and nothing is kept.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::process::{self, Process};
use common::weights;
use reqwest::Client;
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

/// A call of the life cycle.
async fn call(server: &Process, what: &str) {
    let url = server.url(&format!("/v2/repository/models/{CHURNED}/{what}"));
    let answer = Client::new().post(url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{what}: {:?}", answer.text().await);
}

/// Sends one image; the status of the answer.
async fn classify(client: &Client, server: &Process, model: &str) -> u16 {
    let image = std::fs::read(process::data("preprocess/tiny.png")).unwrap();
    let url = server.url(&format!("/classify?model={model}"));
    let answer = client.post(url).body(image).send().await.unwrap();
    answer.status().as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_calls_fail_nobody_and_keep_nothing() {
    let directory = tempfile::tempdir().unwrap();
    weights::folder(&directory.path().join(CHURNED), "resnet32", "w.safetensors");
    let steady = directory.path().join("steady.safetensors");
    std::fs::write(&steady, weights::safetensors(STEADY)).unwrap();
    let steady = format!("{STEADY}={}", steady.display());
    let models = directory.path().display().to_string();
    let server = Process::serve(&["--model", &steady, "--model-dir", &models]).await;
    let server = Arc::new(server);
    let (stop, answered): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
    let traffic: Arc<RwLock<()>> = Arc::default();
    let callers = [(); CALLERS].map(|()| {
        let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
        let (answered, traffic) = (Arc::clone(&answered), Arc::clone(&traffic));
        tokio::spawn(async move {
            let client = Client::new();
            while !stop.load(Ordering::SeqCst) {
                let _flowing = traffic.read().await;
                assert_eq!(classify(&client, &server, STEADY).await, 200);
                answered.fetch_add(1, Ordering::SeqCst);
            }
        })
    });

    let client = Client::new();
    let mut resident = Vec::new();
    for cycle in 0..CYCLES {
        call(&server, "load").await;
        assert_eq!(classify(&client, &server, CHURNED).await, 200);
        call(&server, "load").await;
        assert_eq!(classify(&client, &server, CHURNED).await, 200);
        call(&server, "unload").await;
        assert_eq!(classify(&client, &server, CHURNED).await, 404);
        // on a busy machine the calls can be faster than the traffic that they are to disturb
        while answered.load(Ordering::SeqCst) <= cycle {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if (cycle + 1) % WARM_UP == 0 {
            // at rest, and after an unload at rest: what passes through the process is not what it keeps
            let _still = traffic.write().await;
            call(&server, "load").await;
            call(&server, "unload").await;
            tokio::time::sleep(SETTLING).await;
            resident.push(resident_mib(&server));
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
    let metrics = server.metrics().await;
    assert!(
        !metrics.contains(&format!("model=\"{CHURNED}\"")),
        "{metrics}"
    );
}

/// What the process occupies of the machine's memory, counted page by page: the sums in `status` are rounded by some
/// 64 pages a thread.
fn resident_mib(server: &Process) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", server.id())).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Rss:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<f64>().unwrap() / 1024.0
}
