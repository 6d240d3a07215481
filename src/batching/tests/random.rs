//! Callers and devices that do anything at any time.

use super::super::fake::{LOST, Random};
use super::*;

/// Eight callers that admit, grow, turn back, submit, leave and outlive their deadlines at random.
#[test]
fn nothing_leaks_under_random_departures() {
    let (house, remote) = instant(config(4, Duration::from_micros(200), 24));
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seed in 1..=8 {
            let (house, answered) = (&house, &answered);
            scope.spawn(move || {
                let mut random = Random(seed * 7919);
                for _ in 0..400 {
                    let answers = random_request(&house.batcher, &mut random);
                    for answer in answers {
                        match wait(answer) {
                            Ok(_) => answered.fetch_add(1, Ordering::SeqCst),
                            Err(BatchError::Deadline | BatchError::Engine(_)) => 0,
                            Err(other) => panic!("{other:?}"),
                        };
                    }
                    let load = house.batcher.load();
                    assert!(
                        load.admitted <= 24 && load.on_its_way <= load.admitted,
                        "{load:?}"
                    );
                }
            });
        }
    });
    eventually("everything is given back", || house.is_empty());
    assert_eq!(house.metrics.queue_depth.get(), 0);
    let answered = answered.load(Ordering::SeqCst);
    assert!(
        answered > 100 && answered <= remote.images(),
        "{answered} of {}",
        remote.images()
    );
    assert!(wait(house.send(1.0)).is_ok());
}

/// Submits some of the images of a random ticket and returns the answers that the caller waits for.
fn random_request(batcher: &Batcher, random: &mut Random) -> Vec<Answer> {
    let Ok(mut ticket) = batcher.admit(random.below(3)) else {
        return Vec::new();
    };
    let _ = ticket.resize(random.below(6));
    let mut answers = Vec::new();
    while let Some(one) = ticket.take_one() {
        if random.below(5) == 0 {
            continue;
        }
        let deadline = match random.below(4) {
            0 => Instant::now() + Duration::from_micros(random.below(500) as u64),
            _ => terms().deadline,
        };
        let value = if random.below(40) == 0 { FAIL } else { 1.0 };
        let answer = one.submit(
            Image::Tensor(vec![value, 1.0]),
            Terms {
                deadline,
                ..terms()
            },
        );
        if random.below(3) != 0 {
            answers.push(answer);
        }
        if random.below(9) == 0 {
            break;
        }
    }
    answers
}

/// Devices that are lost at random while images come: every image has exactly one answer, and the right one.
#[test]
fn every_image_is_answered_whatever_is_lost() {
    for seed in 1..=60 {
        let mut random = Random(seed * 104_729);
        let devices = 1 + random.below(4);
        let mut engines = Vec::new();
        let mut remotes = Vec::new();
        for device in 0..devices {
            for _ in 0..1 + random.below(2) {
                let (engine, remote) = Fake::instant(sum_and_difference);
                engines.push(engine.on(&format!("cuda:{device}")));
                remotes.push((device, remote));
            }
        }
        let delay = Duration::from_micros(random.below(300) as u64);
        let house = House::new(engines, config(1 + random.below(6), delay, 1000));
        // how many images there are before each loss, and which device is lost; one image may take two with it
        let losses = random.below(devices + 1);
        let deadly = random.below(6) == 0;
        let mut spared: Vec<usize> = (0..devices).collect();
        let mut answers = Vec::new();
        let mut send = |random: &mut Random, value: f32| {
            let level = 1 + random.below(10) as u64;
            answers.push((value, house.send_at(value, Priority::new(level).unwrap())));
        };
        for _ in 0..losses {
            for _ in 0..random.below(60) {
                let value = random.below(1000) as f32;
                send(&mut random, value);
            }
            let gone = spared.swap_remove(random.below(spared.len()));
            let of_it = remotes.iter().filter(|(device, _)| *device == gone);
            of_it.for_each(|(_, remote)| remote.lose());
        }
        if deadly {
            send(&mut random, LOST);
        }
        for value in 0..random.below(60) {
            send(&mut random, value as f32);
        }
        check_answers(
            &house,
            answers,
            spared.len().saturating_sub(2 * usize::from(deadly)),
        );
    }
}

/// Every image is answered, in vain only if devices were lost; `left` devices are there at the least.
fn check_answers(house: &House, answers: Vec<(f32, Answer)>, left: usize) {
    let mut in_vain = 0;
    for (value, answer) in answers {
        match wait(answer) {
            Ok(output) => assert_eq!(output.logits(), [value + 1.0, value - 1.0]),
            Err(BatchError::Lost(_)) => in_vain += 1,
            Err(other) => panic!("{value}: {other:?}"),
        }
    }
    eventually("everything is given back", || house.is_empty());
    let lost = || -> u64 {
        let devices = (0..4).filter_map(|n| house.metrics.device(&format!("cuda:{n}")));
        devices.map(|device| device.lost.get()).sum()
    };
    if house.batcher.lost().is_some() {
        assert_eq!(left, 0, "some device was spared");
        assert!(matches!(wait(house.send(1.0)), Err(BatchError::Lost(_))));
        assert_eq!(house.losses.load(Ordering::SeqCst), 1);
        return;
    }
    // the images are put back, and may be answered elsewhere, before the loss is counted
    eventually("there was no other to run it on", || {
        lost() > 1 || in_vain == 0
    });
    assert!(house.batcher.load().workers > 0);
    // not every loss may have been noticed yet
    assert!(left == 0 || (0..8).any(|_| wait(house.send(1.0)).is_ok()));
    assert!(house.losses.load(Ordering::SeqCst) == 0 || left == 0);
}
