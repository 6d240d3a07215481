//! The service with real decoding and fake engines: images of one colour, classes that are colours.

mod answers;
mod devices;
mod models;

use std::io::Cursor;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use image::{ImageFormat, Rgb, RgbImage};
use tokio::task::JoinHandle;

use super::*;
use crate::batching::fake::{Fake, PATIENCE, Random, Remote, eventually};
use crate::batching::{self, Load};
use crate::engine::Engine;
use crate::families::Architecture;
use crate::imaging::{self, Interpolation, Preprocessing};
use crate::ir::{Builder, DepthRule, Graph, Shape};
use crate::pool::Pool;
use crate::repository::{LoadedModel, Provenance};
use crate::telemetry::Metrics;

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

/// Logits are ten times the mean of each colour; a white image has none that is finite.
fn colours(image: &[f32], logits: &mut [f32]) {
    let pixels = image.len() / 3;
    for (logit, plane) in logits.iter_mut().zip(image.chunks_exact(pixels)) {
        *logit = 10.0 * plane.iter().sum::<f32>() / pixels as f32;
    }
    // not for the warm-up, whose images are black
    if image.iter().all(|&v| v == WHITE) {
        logits.fill(f32::NAN);
    }
}

/// What preprocessing, with the mean below, makes of white.
const WHITE: f32 = 1.0 - MEAN;
const MEAN: f32 = 0.0625;

fn loaded(name: &str, engine: impl Engine + 'static) -> LoadedModel {
    loaded_on(name, vec![Box::new(engine)])
}

/// The one place that builds a [`LoadedModel`].
fn loaded_on(name: &str, engines: Vec<Box<dyn Engine>>) -> LoadedModel {
    LoadedModel {
        name: name.into(),
        version: "3".into(),
        architecture: &COLOURS,
        graph: Arc::new((COLOURS.build)(Shape::new(3, 8, 8), 3).unwrap()),
        labels: ["red", "green", "blue"].map(String::from).into(),
        preprocessing: Preprocessing {
            resize: 8,
            crop: 8,
            interpolation: Interpolation::Bilinear,
            mean: [MEAN; 3],
            std: [1.0; 3],
        },
        provenance: Provenance::default(),
        engines,
    }
}

struct House {
    classifier: Classifier,
    metrics: Arc<Metrics>,
}

fn house(max_queue: usize) -> Arc<House> {
    house_of(max_queue, None)
}

fn house_of(max_queue: usize, default_model: Option<&str>) -> Arc<House> {
    let metrics = Metrics::new(&Code::ALL.map(Code::as_str));
    let config = Config {
        default_model: default_model.map(String::from),
        pool: Arc::new(Pool::new(NonZeroUsize::new(2).unwrap()).unwrap()),
        imaging: imaging::Config {
            max_image_pixels: 400,
        },
        batching: batching::Config {
            max_batch: 8,
            max_queue_delay: Duration::from_millis(1),
            max_queue,
        },
    };
    Arc::new(House {
        classifier: Classifier::new(config, Arc::clone(&metrics)),
        metrics,
    })
}

/// A house that serves the model `m` at once.
fn instant() -> (Arc<House>, Remote) {
    let (engine, remote) = Fake::instant(colours);
    let house = house(16);
    house.classifier.load_model(loaded("m", engine)).unwrap();
    (house, remote)
}

/// A house whose model `m` holds every batch; the warm-up has passed.
fn gated(max_queue: usize) -> (Arc<House>, Remote) {
    let (engine, remote) = Fake::gated(colours);
    let house = house(max_queue);
    remote.let_pass();
    house.classifier.load_model(loaded("m", engine)).unwrap();
    assert_eq!(remote.arrival(), 1, "the warm-up");
    (house, remote)
}

impl House {
    async fn classify(&self, images: Vec<Bytes>, deadline: Duration) -> Result<Reply, Error> {
        let admission = self.classifier.admit(None, images.len())?;
        let answered = self.classifier.infer(admission, request(images, deadline));
        tokio::time::timeout(PATIENCE, answered)
            .await
            .expect("no answer")
    }

    fn send(
        self: &Arc<Self>,
        images: Vec<Bytes>,
        deadline: Duration,
    ) -> JoinHandle<Result<Reply, Error>> {
        let house = Arc::clone(self);
        tokio::spawn(async move { house.classify(images, deadline).await })
    }

    fn load(&self) -> Load {
        self.model().batcher.load()
    }

    fn model(&self) -> Arc<ServedModel> {
        let models = self.classifier.models();
        Arc::clone(models[0].ready().next().unwrap())
    }

    fn rejected(&self, reason: &str) -> usize {
        self.sample("resnetd_rejected_total", &format!("reason=\"{reason}\""))
    }

    /// The sample of model `m` of that name and label.
    fn sample(&self, name: &str, label: &str) -> usize {
        let text = self.metrics.render();
        let mut lines = text
            .lines()
            .filter(|l| l.starts_with(name) && l.contains(label) && l.contains("model=\"m\""));
        let line = lines.next().unwrap();
        assert_eq!(lines.next(), None, "{name} {label} are several");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn settles(&self) {
        eventually("everything is given back", || {
            let load = self.load();
            (load.admitted, load.on_its_way, load.queued) == (0, 0, 0)
        });
    }
}

fn request(images: Vec<Bytes>, deadline: Duration) -> Request {
    let received = Instant::now();
    Request {
        inputs: images.into_iter().map(Input::Encoded).collect(),
        wanted: Wanted::Best(2),
        priority: Priority::default(),
        whole: false,
        received,
        deadline: received + deadline,
    }
}

fn png(colour: [u8; 3], side: u32) -> Bytes {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(side, side, Rgb(colour))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner().into()
}

fn red() -> Bytes {
    png([255, 0, 0], 10)
}

fn blue() -> Bytes {
    png([0, 0, 255], 10)
}

fn tiff() -> Bytes {
    Bytes::from_static(b"II*\0\x08\0\0\0\0\0\0\0\0\0\0\0")
}

fn label(result: &Result<Scores, Error>) -> Result<&'static str, Code> {
    let scores = result.as_ref().map_err(|e| e.code)?;
    Ok(["red", "green", "blue"][scores.top(1)[0]])
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_image_fails_alone_and_answers_keep_their_order() {
    let (house, _remote) = instant();
    let cut = red().slice(..40);
    let reply = house
        .classify(vec![blue(), cut, red(), png([0; 3], 30), tiff()], LONG)
        .await
        .unwrap();
    let labels: Vec<_> = reply.results.iter().map(label).collect();
    let expected = [
        Ok("blue"),
        Err(Code::UndecodableImage),
        Ok("red"),
        Err(Code::ImageTooLarge),
        Err(Code::UnsupportedImage),
    ];
    assert_eq!(labels, expected);
    assert_eq!(
        (
            reply.model.name.as_str(),
            reply.model.version.as_str(),
            reply.model.depth
        ),
        ("m", "3", 7)
    );
    let scores = reply.results[0].as_ref().unwrap();
    let predictions = scores.predictions(&reply.model.labels, 2);
    assert_eq!(predictions.len(), 2);
    assert_eq!(
        predictions[0].probability,
        scores.probabilities().unwrap()[2]
    );
    assert_eq!((predictions[0].class, predictions[1].class), (2, 0));
    assert!(
        (predictions[0].probability - 0.999_909_2).abs() < 1e-6,
        "{predictions:?}"
    );
    let timing = reply.timing;
    assert!(
        timing.decode > Duration::ZERO && timing.total >= timing.decode + timing.inference,
        "{timing:?}"
    );

    let metrics = &house.model().metrics;
    assert_eq!(metrics.images.get(), 2);
    assert_eq!(metrics.stage_decode.get_sample_count(), 2);
    assert_eq!(metrics.stage_preprocess.get_sample_count(), 2);
    let device = metrics.device("cpu").unwrap();
    assert_eq!(device.stage_queue.get_sample_count(), 2);
    assert_eq!(
        (house.rejected("invalid_image"), house.rejected("too_large")),
        (2, 1)
    );
    assert_eq!(
        (house.rejected("cancelled"), house.rejected("deadline")),
        (0, 0)
    );
    house.settles();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_fail_the_first_error_is_the_answer() {
    let (house, remote) = instant();
    let warm_up = remote.images();
    let error = house
        .classify(vec![tiff(), Bytes::from_static(b"no image")], LONG)
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::UnsupportedImage);
    let error = house.classify(Vec::new(), LONG).await.unwrap_err();
    assert_eq!(error.code, Code::InvalidRequest);
    assert_eq!(remote.images(), warm_up);
    assert_eq!(house.rejected("invalid_image"), 2);
    house.settles();
}

#[tokio::test(flavor = "multi_thread")]
async fn logits_that_are_not_finite_fail_their_image_alone() {
    let (house, _remote) = instant();
    let reply = house
        .classify(vec![red(), png([255; 3], 9)], LONG)
        .await
        .unwrap();
    let labels: Vec<_> = reply.results.iter().map(label).collect();
    assert_eq!(labels, [Ok("red"), Err(Code::Internal)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_image_is_answered_at_its_deadline_though_the_engine_is_busy() {
    let (house, mut remote) = gated(16);
    let held = house.send(vec![red()], LONG);
    assert_eq!(tokio::task::block_in_place(|| remote.arrival()), 1);
    let error = house
        .classify(vec![blue(), blue()], Duration::from_millis(80))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
    assert_eq!(house.rejected("deadline"), 2);
    // passed before it was even decoded
    let error = house
        .classify(vec![blue()], Duration::ZERO)
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
    // a protocol's own timer may be the first to notice
    let admission = house.classifier.admit(None, 1).unwrap();
    let late = request(vec![blue()], Duration::ZERO);
    drop(house.classifier.infer(admission, late));
    remote.open();
    assert_eq!(label(&held.await.unwrap().unwrap().results[0]), Ok("red"));
    house.settles();
    assert_eq!(remote.images(), 2, "the warm-up and the one held");
    assert_eq!(
        (house.rejected("cancelled"), house.rejected("deadline")),
        (0, 4)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_request_is_withdrawn_before_it_costs_compute() {
    let (house, mut remote) = gated(16);
    let first = house.send(vec![red()], LONG);
    assert_eq!(tokio::task::block_in_place(|| remote.arrival()), 1);
    let hung_up = [(); 3].map(|()| house.send(vec![blue(), red(), tiff()], LONG));
    tokio::task::block_in_place(|| eventually("six are queued", || house.load().queued == 6));
    for task in hung_up {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    // never polled: its admission is given back all the same
    let admission = house.classifier.admit(None, 2).unwrap();
    drop(
        house
            .classifier
            .infer(admission, request(vec![red(), red()], LONG)),
    );
    remote.open();
    assert_eq!(label(&first.await.unwrap().unwrap().results[0]), Ok("red"));
    house.settles();
    assert_eq!(remote.images(), 2, "the warm-up and the first");
    // the bad image of each may have been answered before its request was dropped; none is counted twice
    assert_eq!(
        house.rejected("cancelled") + house.rejected("invalid_image"),
        3 * 3 + 2
    );
    assert!(house.rejected("cancelled") >= 3 * 2 + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    let (house, mut remote) = gated(3);
    let mut two = house.classifier.admit(Some("m"), 2).unwrap();
    let error = house.classifier.admit(None, 2).unwrap_err();
    assert_eq!(error.code, Code::QueueFull);
    let wait = error.retry_after.unwrap();
    assert!((1..=30).contains(&wait.as_secs()), "{wait:?}");
    two.resize(3).unwrap();
    assert_eq!(
        house.classifier.admit(None, 1).unwrap_err().code,
        Code::QueueFull
    );
    assert_eq!(
        two.resize(4).unwrap_err().code,
        Code::InvalidRequest,
        "more than the queue ever holds"
    );
    assert_eq!(house.rejected("queue_full"), 0, "not asked to classify");
    drop(two);
    // more images than admitted, and no room for them: refused, none of them queued
    let one = house.classifier.admit(None, 1).unwrap();
    let other = house.classifier.admit(None, 2).unwrap();
    let error = house
        .classifier
        .infer(one, request(vec![red(), red()], LONG))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::QueueFull);
    assert_eq!(house.rejected("queue_full"), 2);
    drop(other);
    remote.open();
    house.settles();
    assert_eq!(house.rejected("cancelled"), 0);
    assert_eq!(remote.images(), 1, "the warm-up");
}

/// Requests good and bad, some dropped at a random time, some with short deadlines: every image is counted once and all
/// room comes back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_and_every_image_is_counted_once_under_random_departures() {
    let (house, remote) = instant();
    let warm_up = remote.images();
    let tasks: Vec<_> = (1..=12u64)
        .map(|seed| {
            let house = Arc::clone(&house);
            tokio::spawn(async move {
                let mut random = Random(seed * 104_729);
                let mut sent = 0;
                for _ in 0..40 {
                    sent += random_request(&house.classifier, &mut random).await;
                }
                sent
            })
        })
        .collect();
    let mut sent = 0;
    for task in tasks {
        sent += task.await.unwrap();
    }
    house.settles();
    let answered = house.model().metrics.images.get() as usize;
    let reasons = ["cancelled", "deadline", "invalid_image"];
    let [cancelled, deadline, invalid] = reasons.map(|reason| house.rejected(reason));
    assert_eq!(answered + cancelled + deadline + invalid, sent);
    assert!(
        answered > 0 && cancelled > 0 && invalid > 0,
        "{answered} {cancelled} {deadline} {invalid}"
    );
    assert!(remote.images() - warm_up >= answered);
    assert_eq!(
        label(&house.classify(vec![red()], LONG).await.unwrap().results[0]),
        Ok("red")
    );
}

/// Returns the number of images of an admitted request.
async fn random_request(classifier: &Classifier, random: &mut Random) -> usize {
    let images: Vec<Bytes> = (0..1 + random.below(4))
        .map(|_| match random.below(5) {
            0 => tiff(),
            1 => blue(),
            _ => red(),
        })
        .collect();
    let count = images.len();
    let Ok(admission) = classifier.admit(None, count) else {
        tokio::task::yield_now().await;
        return 0;
    };
    let deadline = if random.below(4) == 0 {
        Duration::from_micros(random.below(800) as u64)
    } else {
        LONG
    };
    let answer = classifier.infer(admission, request(images, deadline));
    match random.below(9) {
        // gone before the first poll, after it, a little later
        0 => drop(answer),
        1 => tokio::select! { biased; _ = answer => {} () = std::future::ready(()) => {} },
        2 => {
            let patience = Duration::from_micros(random.below(1500) as u64);
            let _ = tokio::time::timeout(patience, answer).await;
        }
        _ => {
            if let Ok(reply) = answer.await {
                assert_eq!(reply.results.len(), count);
            }
        }
    }
    count
}
