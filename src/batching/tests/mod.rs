//! The batcher as a whole, with engines that are instant or held at a gate.

mod answers;
mod devices;
mod ending;
mod images;
mod random;
mod slots;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::oneshot;

use super::fake::{FAIL, Fake, PANIC, PATIENCE, Remote, eventually};
use super::*;
use crate::engine;
use crate::telemetry::{DeviceMetrics, Metrics, ModelLabels};

const HOUR: Duration = Duration::from_secs(3600);

type Answer = oneshot::Receiver<Result<Output, BatchError>>;

/// A batcher, of two values an image and two classes: their sum and their difference.
struct House {
    batcher: Batcher,
    metrics: Arc<ModelMetrics>,
    /// How often it was said that the last device is lost.
    losses: Arc<AtomicUsize>,
}

impl House {
    fn new(engines: Vec<Fake>, config: Config) -> Self {
        let engines = engines.into_iter().map(|e| Box::new(e) as Box<dyn Engine>);
        Self::of(engines.collect(), signature(2), config)
    }

    fn of(engines: Vec<Box<dyn Engine>>, signature: Signature, config: Config) -> Self {
        let mut devices: Vec<&str> = engines.iter().map(|e| e.info().device.as_str()).collect();
        devices.dedup();
        let labels = ModelLabels {
            device: devices.join(","),
            ..ModelLabels::default()
        };
        let metrics = Metrics::new(&[]).model(&labels);
        let losses = Arc::new(AtomicUsize::new(0));
        let setup = Setup {
            model: "test",
            signature,
            config,
            metrics: Arc::clone(&metrics),
        };
        let count = Arc::clone(&losses);
        let on_lost = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        Self {
            batcher: Batcher::spawn(engines, setup, on_lost).unwrap(),
            metrics,
            losses,
        }
    }

    fn device(&self, name: &str) -> Arc<DeviceMetrics> {
        self.metrics.device(name).unwrap()
    }

    fn send(&self, first: f32) -> Answer {
        self.send_at(first, Priority::default())
    }

    fn send_at(&self, first: f32, priority: Priority) -> Answer {
        let ticket = self.batcher.admit(1).unwrap();
        let terms = Terms {
            priority,
            ..terms()
        };
        ticket.submit(Image::Tensor(vec![first, 1.0]), terms)
    }

    fn is_empty(&self) -> bool {
        let load = self.batcher.load();
        (load.admitted, load.on_its_way, load.queued) == (0, 0, 0)
    }
}

fn signature(image_len: usize) -> Signature {
    Signature {
        image_len,
        classes: 2,
        normalization: Arc::new(Normalization::new([0.0, 0.25, 0.5], [1.0, 0.5, 0.25])),
    }
}

fn sum_and_difference(image: &[f32], logits: &mut [f32]) {
    logits.copy_from_slice(&[image[0] + image[1], image[0] - image[1]]);
}

fn gated(config: Config) -> (House, Remote) {
    let (engine, remote) = Fake::gated(sum_and_difference);
    (House::new(vec![engine], config), remote)
}

fn instant(config: Config) -> (House, Remote) {
    let (engine, remote) = Fake::instant(sum_and_difference);
    (House::new(vec![engine], config), remote)
}

fn config(max_batch: usize, max_queue_delay: Duration, max_queue: usize) -> Config {
    Config {
        max_batch,
        max_queue_delay,
        max_queue,
    }
}

fn terms() -> Terms {
    Terms {
        wanted: Wanted::Logits,
        priority: Priority::default(),
        deadline: Instant::now() + HOUR,
    }
}

impl Output {
    #[track_caller]
    fn logits(&self) -> &[f32] {
        match &self.answer {
            engine::Answer::Logits(logits) => logits,
            engine::Answer::Best(best) => panic!("{best:?} for logits"),
        }
    }
}

/// Waits for an answer; a worker that has gone shows as `Closed`.
#[track_caller]
fn wait(answer: Answer) -> Result<Output, BatchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
    answered
        .expect("no answer")
        .unwrap_or(Err(BatchError::Closed))
}

#[test]
fn an_idle_engine_with_nothing_on_its_way_runs_at_once() {
    let (house, _remote) = instant(config(8, HOUR, 8));
    for i in 0..3 {
        let output = wait(house.send(i as f32)).unwrap();
        assert_eq!(output.logits(), [i as f32 + 1.0, i as f32 - 1.0]);
        assert_eq!(output.batch_size, 1);
        assert!(house.is_empty(), "room is given back before the answer");
    }
    assert_eq!(house.device("cpu").inference.get_sample_count(), 3);
}

#[test]
fn an_image_waits_for_company_on_its_way() {
    let (house, mut remote) = gated(config(8, HOUR, 8));
    let late = house.batcher.admit(1).unwrap();
    let first = house.send(1.0);
    assert!(remote.nobody_comes());
    let second = late.submit(Image::Tensor(vec![2.0, 0.0]), terms());
    assert_eq!(remote.arrival(), 2);
    remote.open();
    assert_eq!(wait(first).unwrap().batch_size, 2);
    assert_eq!(wait(second).unwrap().logits(), [2.0, 2.0]);
}

#[test]
fn company_that_turns_back_is_not_waited_for() {
    let (house, mut remote) = gated(config(8, HOUR, 8));
    let mut late = house.batcher.admit(3).unwrap();
    let one = late.take_one().unwrap();
    let first = house.send(1.0);
    late.resize(1).unwrap();
    drop(one);
    assert!(remote.nobody_comes(), "one is still on its way");
    drop(late);
    assert_eq!(remote.arrival(), 1);
    remote.open();
    assert!(wait(first).is_ok());
}

#[test]
fn company_is_waited_for_no_longer_than_the_delay() {
    let delay = Duration::from_millis(30);
    let (house, _remote) = instant(config(8, delay, 8));
    let late = house.batcher.admit(1).unwrap();
    let output = wait(house.send(1.0)).unwrap();
    assert!(output.queued >= delay, "{:?}", output.queued);
    drop(late);
    assert!(house.is_empty());
}

#[test]
fn a_full_batch_waits_for_nobody_and_keeps_the_order() {
    let (house, mut remote) = gated(config(3, HOUR, 8));
    let late = house.batcher.admit(1).unwrap();
    let answers: Vec<Answer> = (0..3).map(|i| house.send(i as f32)).collect();
    assert_eq!(remote.arrival(), 3);
    remote.open();
    for (i, answer) in answers.into_iter().enumerate() {
        let output = wait(answer).unwrap();
        assert_eq!((output.logits()[0], output.batch_size), (i as f32 + 1.0, 3));
    }
    assert_eq!(
        *remote.record.last.lock().unwrap(),
        [0.0, 1.0, 1.0, 1.0, 2.0, 1.0]
    );
    drop(late);
}

#[test]
fn batches_form_under_load() {
    const CLIENTS: usize = 16;
    let (house, mut remote) = gated(config(32, Duration::from_millis(2), 256));
    let running = AtomicUsize::new(CLIENTS);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (house, running) = (&house, &running);
            scope.spawn(move || {
                for i in 0..20 {
                    let value = (client * 100 + i) as f32;
                    assert_eq!(
                        wait(house.send(value)).unwrap().logits(),
                        [value + 1.0, value - 1.0]
                    );
                }
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        // a slow engine: a batch passes when every client that is not in it waits in the queue
        while running.load(Ordering::SeqCst) > 0 {
            let Some(batch) = remote.arrived_within(Duration::from_millis(20)) else {
                continue;
            };
            eventually("all others are queued", || {
                house.batcher.load().queued + batch >= running.load(Ordering::SeqCst)
            });
            remote.let_pass();
        }
    });
    remote.open();
    let mean = remote.images() as f64 / remote.batches() as f64;
    assert_eq!(remote.images(), CLIENTS * 20);
    assert!(mean > 4.0, "mean batch size {mean}");
    let device = house.device("cpu");
    let histogram = &device.batch_size;
    assert_eq!(histogram.get_sample_count() as usize, remote.batches());
    assert_eq!(histogram.get_sample_sum() as usize, remote.images());
    assert_eq!(
        device.stage_inference.get_sample_count() as usize,
        remote.images()
    );
    assert_eq!(
        device.inference.get_sample_count() as usize,
        remote.batches()
    );
    assert!(house.is_empty());
}

/// Holds one image in the engine, so that what follows forms one batch.
fn occupied(config: Config) -> (House, Remote, Answer) {
    let (house, remote) = gated(config);
    let first = house.send(0.0);
    assert_eq!(remote.arrival(), 1);
    (house, remote, first)
}

#[test]
fn a_failed_batch_answers_every_waiter_and_the_next_succeeds() {
    for (bad, words) in [(FAIL, "told to fail"), (PANIC, "told to panic")] {
        let (house, mut remote, first) = occupied(config(8, HOUR, 8));
        let batch: Vec<Answer> = [1.0, bad, 2.0].map(|v| house.send(v)).into();
        remote.open();
        assert!(wait(first).is_ok());
        for answer in batch {
            let error = wait(answer).unwrap_err();
            assert!(
                matches!(&error, BatchError::Engine(text) if text.contains(words)),
                "{error:?}"
            );
        }
        assert!(house.is_empty());
        assert_eq!(wait(house.send(5.0)).unwrap().logits(), [6.0, 4.0]);
    }
}

#[test]
fn the_departed_and_the_late_are_not_executed() {
    let (house, mut remote, first) = occupied(config(8, HOUR, 8));
    let mut answers: Vec<Answer> = (0..5).map(|i| house.send(i as f32)).collect();
    answers.drain(1..4);
    let late = house.batcher.admit(1).unwrap().submit(
        Image::Tensor(vec![9.0, 9.0]),
        Terms {
            deadline: Instant::now(),
            ..terms()
        },
    );
    assert_eq!(house.metrics.queue_depth.get(), 6);
    remote.open();
    assert_eq!(wait(late).unwrap_err(), BatchError::Deadline);
    assert!(wait(first).is_ok());
    for answer in answers {
        assert_eq!(wait(answer).unwrap().batch_size, 2);
    }
    assert_eq!(remote.images(), 3);
    assert_eq!(*remote.record.last.lock().unwrap(), [0.0, 1.0, 4.0, 1.0]);
    assert!(house.is_empty());
    assert_eq!(house.metrics.queue_depth.get(), 0);
}

#[test]
fn admission_is_whole_or_not_and_comes_back() {
    let (house, mut remote, first) = occupied(config(8, HOUR, 4));
    let mut ticket = house.batcher.admit(2).unwrap();
    let full = QueueFull {
        admitted: 3,
        asked: 2,
        limit: 4,
    };
    assert_eq!(house.batcher.admit(2).unwrap_err(), full);
    assert_eq!(
        ticket.resize(4).unwrap_err(),
        QueueFull {
            admitted: 1,
            asked: 4,
            ..full
        }
    );
    assert_eq!(ticket.images(), 2);
    ticket.resize(3).unwrap();
    let one = ticket.take_one().unwrap();
    assert_eq!((ticket.images(), one.images()), (2, 1));
    let queued = one.submit(Image::Tensor(vec![1.0, 1.0]), terms());
    let load = house.batcher.load();
    assert_eq!((load.admitted, load.on_its_way, load.queued), (4, 2, 1));
    assert!(house.batcher.admit(1).is_err());

    // a caller that leaves the queue makes room at once, though the engine is busy
    drop(queued);
    let newcomer = house.batcher.admit(1).unwrap();
    assert_eq!(house.batcher.load().queued, 0);
    drop((newcomer, ticket));
    remote.open();
    assert!(wait(first).is_ok());
    assert!(house.is_empty());
    assert!(house.batcher.admit(4).is_ok());
}

#[test]
fn tickets_of_any_size_submit_one_image_or_none() {
    let (house, remote) = instant(config(8, HOUR, 8));
    let three = house.batcher.admit(3).unwrap();
    assert!(wait(three.submit(Image::Tensor(vec![1.0, 1.0]), terms())).is_ok());
    assert!(house.is_empty());
    let mut none = house.batcher.admit(0).unwrap();
    assert!(none.take_one().is_none());
    assert_eq!(
        wait(none.submit(Image::Tensor(vec![1.0, 1.0]), terms())).unwrap_err(),
        BatchError::Closed
    );
    assert!(house.is_empty());
    let wrong = house
        .batcher
        .admit(1)
        .unwrap()
        .submit(Image::Tensor(vec![1.0; 5]), terms());
    let length = BatchError::ImageLength {
        expected: 2,
        found: 5,
    };
    assert_eq!(wait(wrong).unwrap_err(), length);
    assert!(house.is_empty());
    assert_eq!(remote.images(), 1);
}

#[test]
fn padding_is_counted_where_an_engine_pads() {
    let (mut engine, mut remote) = Fake::gated(sum_and_difference);
    (engine.buckets, engine.pads) = (vec![1, 4, 8], true);
    let house = House::new(vec![engine], config(8, HOUR, 8));
    let first = house.send(1.0);
    assert_eq!(remote.arrival(), 1);
    let others = [2.0, 3.0].map(|value| house.send(value));
    remote.open();
    assert!(wait(first).is_ok());
    assert!(others.into_iter().all(|answer| wait(answer).is_ok()));
    let replays = &house.device("cpu").replays;
    assert_eq!(replays.replayed(), [(1, 1), (4, 1), (8, 0)]);
    assert_eq!(replays.padding(), 2);
}

#[test]
fn the_warm_up_runs_every_bucket_that_batches_reach() {
    let (mut engine, remote) = Fake::gated(sum_and_difference);
    engine.buckets = vec![1, 4, 8, 9];
    let warm = std::thread::spawn(move || warm_up(&mut engine, &signature(3), 8));
    for batch in [1, 4, 8] {
        assert_eq!(remote.arrival(), batch);
        remote.let_pass();
    }
    let logits = warm.join().unwrap().unwrap();
    // black is 0 in the first channel, -0.25 / 0.5 in the second
    assert_eq!(logits, [-0.5, 0.5].repeat(1 + 4 + 8));
    assert_eq!(remote.batches(), 3);
}

#[test]
fn the_highest_priority_goes_first_and_of_equal_ones_who_came_first() {
    let (house, mut remote) = gated(config(1, HOUR, 8));
    let running = house.send(0.0);
    assert_eq!(remote.arrival(), 1);
    let send = |priority: Option<u64>, first: f32| {
        let priority = priority.map_or(Priority::default(), |level| Priority::new(level).unwrap());
        let ticket = house.batcher.admit(1).unwrap();
        let terms = Terms {
            priority,
            ..terms()
        };
        ticket.submit(Image::Tensor(vec![first, 0.0]), terms)
    };
    let sent = [
        (Some(10), 5.0),
        (None, 3.0),
        (Some(1), 1.0),
        (Some(5), 4.0),
        (Some(2), 2.0),
    ];
    let answers = sent.map(|(priority, place)| (place, send(priority, place)));
    for place in 1..=5 {
        remote.let_pass();
        assert_eq!(remote.arrival(), 1);
        // with the next batch at the gate, those before it have been computed
        let computed = remote.record.last.lock().unwrap().clone();
        assert_eq!(computed[0], (place - 1) as f32, "in this place");
    }
    remote.open();
    assert!(wait(running).is_ok());
    for (place, answer) in answers {
        assert_eq!(wait(answer).unwrap().logits()[0], place);
    }
}

#[test]
fn there_are_ten_levels() {
    assert_eq!(Priority::new(0), None);
    assert_eq!(Priority::new(1).unwrap().level(), 1);
    assert_eq!(Priority::new(5), Some(Priority::default()));
    assert_eq!(Priority::new(10).unwrap().level(), Priority::LEVELS);
    assert_eq!((Priority::new(11), Priority::new(257)), (None, None));
}
