//! Two engines of one device: a small batch does not start beside another, a full one does.

use super::devices::{arrival, house, house_with};
use super::*;

const PAIR: [&str; 2] = ["cuda:0", "cuda:0"];

#[test]
fn a_few_images_wait_for_the_end_of_the_devices_batch() {
    let (house, mut remotes) = house(&PAIR, Fake::gated);
    let first = house.send(1.0);
    let busy = arrival(&remotes, 1);
    let few = [2.0, 3.0].map(|value| house.send(value));
    assert!(remotes[1 - busy].nobody_comes());
    assert_eq!(house.batcher.load().queued, 2);
    remotes[busy].let_pass();
    assert!(wait(first).is_ok());
    assert_eq!(arrival(&remotes, 2), 1 - busy, "it waits for longest");
    remotes.iter_mut().for_each(Remote::open);
    for (value, answer) in [2.0, 3.0].into_iter().zip(few) {
        let output = wait(answer).unwrap();
        assert_eq!(output.logits(), [value + 1.0, value - 1.0]);
        assert_eq!(output.batch_size, 2);
    }
    assert!(house.is_empty());
}

#[test]
fn they_wait_no_longer_than_the_delay() {
    let delay = Duration::from_millis(30);
    let (house, mut remotes) = house_with(&PAIR, Fake::gated, config(8, delay, 64));
    let first = house.send(1.0);
    let busy = arrival(&remotes, 1);
    let second = house.send(2.0);
    assert_eq!(remotes[1 - busy].arrival(), 1, "beside the other");
    remotes.iter_mut().for_each(Remote::open);
    let queued = wait(second).unwrap().queued;
    assert!(queued >= delay, "{queued:?}");
    assert!(wait(first).is_ok());
}

#[test]
fn a_full_batch_goes_beside_another() {
    let (house, mut remotes) = house_with(&PAIR, Fake::gated, config(3, HOUR, 64));
    let first = house.send(1.0);
    let busy = arrival(&remotes, 1);
    let full = [2.0, 3.0, 4.0].map(|value| house.send(value));
    assert_eq!(remotes[1 - busy].arrival(), 3);
    remotes.iter_mut().for_each(Remote::open);
    assert!(wait(first).is_ok());
    assert!(full.into_iter().all(|answer| wait(answer).is_ok()));
}

#[test]
fn an_idle_device_takes_them_at_once() {
    let (house, mut remotes) = house(&["cuda:0", "cuda:0", "cuda:1"], Fake::gated);
    let answers = [1.0, 2.0].map(|value| {
        let answer = house.send(value);
        (arrival(&remotes, 1), answer)
    });
    assert_ne!(answers[0].0 / 2, answers[1].0 / 2, "one on each device");
    // both devices are busy now, and the one that is done first takes what comes
    let third = house.send(3.0);
    assert!(remotes.iter().all(Remote::nobody_comes));
    remotes[2].let_pass();
    assert_eq!(remotes[2].arrival(), 1);
    remotes.iter_mut().for_each(Remote::open);
    assert!(wait(third).is_ok());
    for (_, answer) in answers {
        assert!(wait(answer).is_ok());
    }
}
