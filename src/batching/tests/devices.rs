//! Several engines under one queue: who runs what, and what becomes of it when a device is lost.

use super::super::fake::LOST;
use super::*;

pub(super) type Make = fn(fn(&[f32], &mut [f32])) -> (Fake, Remote);

/// A house with an engine on each of these devices, and a remote for each.
pub(super) fn house(devices: &[&str], make: Make) -> (House, Vec<Remote>) {
    house_of(devices, make, 8)
}

fn house_of(devices: &[&str], make: Make, max_batch: usize) -> (House, Vec<Remote>) {
    house_with(devices, make, config(max_batch, HOUR, 64))
}

pub(super) fn house_with(devices: &[&str], make: Make, config: Config) -> (House, Vec<Remote>) {
    let engines = devices.iter().map(|device| {
        let (engine, remote) = make(sum_and_difference);
        (engine.on(device), remote)
    });
    let (engines, remotes) = engines.unzip();
    let house = House::new(engines, config);
    house.all_wait(devices.len());
    (house, remotes)
}

impl House {
    /// Waits until so many workers wait for a batch.
    pub(super) fn all_wait(&self, workers: usize) {
        eventually("all workers wait", || {
            self.batcher.handle.queue.waiting() == workers
        });
    }
}

/// Which of the engines a batch of this size came to.
#[track_caller]
pub(super) fn arrival(remotes: &[Remote], size: usize) -> usize {
    let start = Instant::now();
    loop {
        for (number, remote) in remotes.iter().enumerate() {
            if let Some(batch) = remote.arrived_within(Duration::from_millis(1)) {
                assert_eq!(batch, size);
                return number;
            }
        }
        assert!(start.elapsed() < PATIENCE, "no batch came");
    }
}

/// One image in each of two engines; in the order of their arrival.
fn occupied(house: &House, remotes: &[Remote]) -> [(usize, Answer); 2] {
    [1.0, 2.0].map(|value| {
        let answer = house.send(value);
        (arrival(remotes, 1), answer)
    })
}

/// First values of the last batch that an engine ran.
fn last(remote: &Remote) -> Vec<f32> {
    let last = remote.record.last.lock().unwrap();
    last.iter().step_by(2).copied().collect()
}

#[test]
fn batches_spread_and_who_is_done_takes_the_next() {
    let (house, mut remotes) = house(&["cuda:0", "cuda:1"], Fake::gated);
    let [(first, one), (second, two)] = occupied(&house, &remotes);
    assert_ne!(first, second, "each has one");
    let queued: Vec<Answer> = (3..6).map(|i| house.send(i as f32)).collect();
    assert_eq!(house.batcher.load().queued, 3);
    assert_eq!(house.batcher.load().workers, 2);
    remotes[second].let_pass();
    assert_eq!(wait(two).unwrap().logits(), [3.0, 1.0]);
    assert_eq!(remotes[second].arrival(), 3);
    assert!(remotes[first].nobody_comes());
    remotes.iter_mut().for_each(Remote::open);
    assert_eq!(wait(one).unwrap().logits(), [2.0, 0.0]);
    for (i, answer) in (3..6).zip(queued) {
        assert_eq!(wait(answer).unwrap().logits()[0], i as f32 + 1.0);
    }
    for remote in [first, second] {
        let device = house.device(&format!("cuda:{remote}"));
        assert_eq!(
            device.inference.get_sample_count() as usize,
            remotes[remote].batches()
        );
        assert_eq!(
            device.batch_size.get_sample_sum() as usize,
            remotes[remote].images()
        );
        assert_eq!(
            device.stage_queue.get_sample_count() as usize,
            remotes[remote].images()
        );
    }
    assert_eq!((remotes[first].images(), remotes[second].images()), (1, 4));
    assert!(house.is_empty());
}

/// What comes faster than a worker wakes is not left to that one alone.
#[test]
fn images_that_come_together_wake_as_many_as_they_need() {
    let (house, remotes) = house_of(&["cuda:0", "cuda:1", "cuda:2"], Fake::gated, 1);
    for _ in 0..20 {
        let answers = [1.0, 2.0, 3.0].map(|value| house.send(value));
        for remote in &remotes {
            assert_eq!(remote.arrival(), 1);
        }
        remotes.iter().for_each(Remote::let_pass);
        for answer in answers {
            assert!(wait(answer).is_ok());
        }
        house.all_wait(3);
    }
}

/// However long the workers of one device have waited.
#[test]
fn the_least_loaded_device_goes_first() {
    let (house, remotes) = house(&["cuda:0", "cuda:0", "cuda:1"], Fake::gated);
    for round in 0..6 {
        let [(first, one), (second, two)] = occupied(&house, &remotes);
        assert_ne!(first / 2, second / 2, "{first} and {second} share a device");
        // in either order, so that either waits longer in the next round
        for (engine, answer) in match round % 2 {
            0 => [(first, one), (second, two)],
            _ => [(second, two), (first, one)],
        } {
            remotes[engine].let_pass();
            wait(answer).unwrap();
        }
        house.all_wait(3);
    }
}

#[test]
fn a_lost_devices_batch_goes_elsewhere() {
    let (house, mut remotes) = house(&["cuda:0", "cuda:1"], Fake::gated);
    let [(broken, one), (whole, two)] = occupied(&house, &remotes);
    let queued: Vec<Answer> = (3..6).map(|i| house.send(i as f32)).collect();
    remotes[broken].lose();
    remotes[broken].let_pass();
    assert!(remotes[broken].ended(), "its engine goes");
    assert_eq!(house.batcher.load().queued, 4);
    assert_eq!(house.batcher.load().workers, 1);
    remotes[whole].open();
    for (value, answer) in (1..6).zip([one, two].into_iter().chain(queued)) {
        let value = value as f32;
        assert_eq!(wait(answer).unwrap().logits(), [value + 1.0, value - 1.0]);
    }
    assert_eq!(
        last(&remotes[whole]),
        [1.0, 3.0, 4.0, 5.0],
        "in front of the queue"
    );
    let (lost, left) = [broken, whole]
        .map(|engine| house.device(&format!("cuda:{engine}")))
        .into();
    assert_eq!((lost.lost.get(), lost.inference.get_sample_count()), (1, 0));
    eventually("a worker has left", || lost.workers.get() == 0);
    assert_eq!((left.lost.get(), left.workers.get()), (0, 1));
    assert_eq!(
        (house.batcher.lost(), house.losses.load(Ordering::SeqCst)),
        (None, 0)
    );
    assert_eq!(wait(house.send(9.0)).unwrap().logits(), [10.0, 8.0]);
    assert!(house.is_empty());
}

#[test]
fn the_last_device_lost_everyone_is_told() {
    for devices in [["cuda:0", "cuda:1"].as_slice(), &["cuda:0"]] {
        let (house, remotes) = house(devices, Fake::gated);
        let running: Vec<(usize, Answer)> = devices
            .iter()
            .map(|_| {
                let answer = house.send(1.0);
                (arrival(&remotes, 1), answer)
            })
            .collect();
        let queued = [2.0, 3.0].map(|value| house.send(value));
        let ticket = house.batcher.admit(1).unwrap();
        for remote in &remotes {
            remote.lose();
            remote.let_pass();
            assert!(remote.ended());
        }
        for answer in running.into_iter().map(|(_, answer)| answer).chain(queued) {
            let reason = "told to be lost".to_owned();
            assert_eq!(wait(answer).unwrap_err(), BatchError::Lost(reason));
        }
        let lost = house.batcher.lost().unwrap();
        for device in devices {
            assert!(
                lost.contains(&format!("{device} (told to be lost)")),
                "{lost}"
            );
            assert_eq!(house.device(device).lost.get(), 1);
        }
        assert_eq!(house.losses.load(Ordering::SeqCst), 1);
        // who comes later is told at once
        for ticket in [ticket, house.batcher.admit(1).unwrap()] {
            let answer = ticket.submit(Image::Tensor(vec![1.0, 1.0]), terms());
            assert_eq!(wait(answer).unwrap_err(), BatchError::Lost(lost.clone()));
        }
        assert!(house.is_empty());
        assert_eq!(house.batcher.load().workers, 0);
        assert_eq!(house.metrics.queue_depth.get(), 0);
    }
}

#[test]
fn an_image_is_tried_on_two_devices_at_most() {
    let (house, remotes) = house(&["cuda:0", "cuda:1", "cuda:2"], Fake::instant);
    let error = wait(house.send(LOST)).unwrap_err();
    assert!(matches!(error, BatchError::Lost(_)), "{error:?}");
    assert_eq!(remotes.iter().map(Remote::batches).sum::<usize>(), 2);
    assert_eq!(wait(house.send(1.0)).unwrap().logits(), [2.0, 0.0]);
    assert_eq!(house.batcher.load().workers, 1);
    assert!(house.is_empty());
}

#[test]
fn all_workers_of_a_lost_device_leave_after_their_batch() {
    // one engine of the device runs a batch while the other is lost
    let devices = ["cuda:0", "cuda:0", "cuda:0", "cuda:1"];
    let (house, remotes) = house_of(&devices, Fake::gated, 1);
    let mut running: Vec<Option<Answer>> = remotes.iter().map(|_| None).collect();
    // the second goes to the device of which the first is not, and the third to cuda:0 in any case
    for value in [1.0, 2.0, 3.0] {
        let answer = house.send(value);
        running[arrival(&remotes, 1)] = Some(answer);
    }
    let busy: Vec<usize> = (0..3).filter(|&n| running[n].is_some()).collect();
    let idle = (0..3).find(|n| !busy.contains(n)).unwrap();
    assert_eq!(busy.len(), 2);
    remotes[busy[0]].lose();
    remotes[busy[0]].let_pass();
    assert!(remotes[busy[0]].ended() && remotes[idle].ended());
    assert_eq!(remotes[idle].batches(), 0);
    assert_eq!(house.batcher.load().workers, 1);

    // what still runs there is answered by it if it can be
    remotes[busy[1]].let_pass();
    assert!(wait(running[busy[1]].take().unwrap()).is_ok());
    assert!(remotes[busy[1]].ended());
    let mut remotes = remotes;
    remotes[3].open();
    assert!(wait(running[3].take().unwrap()).is_ok());
    assert!(wait(running[busy[0]].take().unwrap()).is_ok());
    assert_eq!(house.device("cuda:0").lost.get(), 1);
    assert_eq!(house.losses.load(Ordering::SeqCst), 0);
    assert!(house.is_empty());
}

#[test]
fn a_batch_goes_back_to_its_places_by_priority() {
    let (house, mut remotes) = house(&["cuda:0", "cuda:1"], Fake::gated);
    let [(broken, one), (whole, two)] = occupied(&house, &remotes);
    let send = |level, value| house.send_at(value, Priority::new(level).unwrap());
    let mut answers = vec![send(1, 1.0), send(5, 3.0), send(5, 4.0)];
    remotes[broken].let_pass();
    assert_eq!(remotes[broken].arrival(), 3);
    answers.extend([send(10, 6.0), send(5, 5.0), send(1, 2.0)]);
    remotes[broken].lose();
    remotes[broken].let_pass();
    assert!(remotes[broken].ended());
    remotes[whole].open();
    for answer in answers.into_iter().chain([one, two]) {
        assert!(wait(answer).is_ok());
    }
    assert_eq!(last(&remotes[whole]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn failures_and_panics_lose_nothing() {
    let (house, _remotes) = house(&["cuda:0", "cuda:1"], Fake::instant);
    for bad in [FAIL, PANIC, FAIL, PANIC] {
        let error = wait(house.send(bad)).unwrap_err();
        assert!(matches!(error, BatchError::Engine(_)), "{error:?}");
    }
    house.all_wait(2);
    assert_eq!(house.batcher.load().workers, 2);
}

/// By a bug that is not the engine's, before or after the other device is lost.
#[test]
fn a_device_whose_last_worker_panics_is_lost() {
    for is_first in [true, false] {
        let (house, remotes) = house(&["cuda:0", "cuda:1"], Fake::gated);
        let [(broken, one), (lost, two)] = occupied(&house, &remotes);
        remotes[broken].break_worker();
        remotes[lost].lose();
        let panics = |house: &House, answer| {
            remotes[broken].let_pass();
            assert_eq!(wait(answer).unwrap_err(), BatchError::Closed);
            assert!(remotes[broken].ended());
            let device = house.device(&format!("cuda:{broken}"));
            eventually("a worker has left", || device.lost.get() == 1);
        };
        let mut one = Some(one);
        if is_first {
            panics(&house, one.take().unwrap());
            assert_eq!(house.batcher.load().workers, 1);
            assert_eq!(house.losses.load(Ordering::SeqCst), 0);
        }
        assert_eq!(house.batcher.lost(), None);
        remotes[lost].let_pass();
        assert!(remotes[lost].ended());
        let queued = house.send(3.0);
        if let Some(one) = one {
            // what the lost device ran waits with it
            assert_eq!(house.batcher.load().queued, 2);
            panics(&house, one);
        }
        for answer in [two, queued, house.send(4.0)] {
            let error = wait(answer).unwrap_err();
            assert!(matches!(error, BatchError::Lost(_)), "{error:?}");
        }
        let reason = house.batcher.lost().unwrap();
        for what in [
            format!("cuda:{broken} (its worker panicked, which is a bug)"),
            format!("cuda:{lost} (told to be lost)"),
        ] {
            assert!(reason.contains(&what), "{reason}");
        }
        assert_eq!(house.losses.load(Ordering::SeqCst), 1);
        assert!(house.is_empty());
    }
}

#[test]
fn a_worker_that_panics_beside_another_leaves_the_device_to_it() {
    let (house, mut remotes) = house(&["cuda:0", "cuda:0"], Fake::gated);
    let one = house.send(1.0);
    let broken = arrival(&remotes, 1);
    remotes[broken].break_worker();
    let two = house.send(2.0);
    remotes.iter_mut().for_each(Remote::open);
    assert_eq!(wait(one).unwrap_err(), BatchError::Closed);
    assert_eq!(wait(two).unwrap().logits(), [3.0, 1.0]);
    assert!(remotes[broken].ended());
    eventually("one worker is left", || house.batcher.load().workers == 1);
    assert!(wait(house.send(5.0)).is_ok());
    assert_eq!(
        (house.device("cuda:0").lost.get(), house.batcher.lost()),
        (0, None)
    );
}

#[test]
fn the_only_worker_panics_and_the_model_is_lost() {
    let (house, remotes) = house(&["cpu"], Fake::gated);
    let running = house.send(1.0);
    assert_eq!(remotes[0].arrival(), 1);
    let queued = house.send(2.0);
    remotes[0].break_worker();
    remotes[0].let_pass();
    assert_eq!(wait(running).unwrap_err(), BatchError::Closed);
    for answer in [queued, house.send(3.0)] {
        let error = wait(answer).unwrap_err();
        assert!(matches!(error, BatchError::Lost(_)), "{error:?}");
    }
    assert_eq!(house.losses.load(Ordering::SeqCst), 1);
    assert!(house.batcher.lost().is_some() && house.is_empty());
    assert_eq!(house.device("cpu").lost.get(), 1);
}

#[test]
fn the_last_handle_gone_all_workers_end() {
    let (house, mut remotes) = house(&["cuda:0", "cuda:0", "cuda:1"], Fake::gated);
    let answers: Vec<Answer> = (0..9).map(|i| house.send(i as f32)).collect();
    let devices = ["cuda:0", "cuda:1"].map(|device| house.device(device));
    assert_eq!(devices.each_ref().map(|d| d.workers.get()), [2, 1]);
    drop(house);
    remotes.iter_mut().for_each(Remote::open);
    for answer in answers {
        assert!(wait(answer).is_ok());
    }
    assert!(remotes.iter().all(Remote::ended));
    eventually("all have left", || {
        devices.iter().all(|d| d.workers.get() == 0)
    });
}

#[test]
fn the_more_workers_the_shorter_the_backlog() {
    let load = |workers| Load {
        admitted: 12,
        on_its_way: 4,
        queued: 6,
        seconds_per_image: 0.5,
        workers,
    };
    let backlogs = [0, 1, 3].map(|workers| load(workers).backlog().as_secs());
    assert_eq!(backlogs, [6, 6, 2]);
}

#[test]
fn without_an_engine_or_its_series_nothing_starts() {
    let metrics = Metrics::new(&[]).model(&ModelLabels::default());
    let spawn = |engines| {
        let setup = Setup {
            model: "test",
            signature: signature(2),
            config: config(8, HOUR, 8),
            metrics: Arc::clone(&metrics),
        };
        Batcher::spawn(engines, setup, || ())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(spawn(Vec::new()), "there is no engine");
    let (engine, remote) = Fake::instant(sum_and_difference);
    let error = spawn(vec![Box::new(engine)]);
    assert_eq!(error, "there are no series for the device cpu");
    assert!(remote.ended());
}
