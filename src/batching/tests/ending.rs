//! How workers end, and who hears of it.

use super::*;

#[test]
fn the_last_handle_gone_the_queue_drains_and_the_worker_ends() {
    let (house, mut remote, first) = occupied(config(2, HOUR, 8));
    let ticket = house.batcher.admit(1).unwrap();
    let queued: Vec<Answer> = (0..3).map(|i| house.send(i as f32)).collect();
    drop(house);
    // a ticket keeps the worker as a handle does
    let last = ticket.submit(Image::Tensor(vec![7.0, 1.0]), terms());
    remote.open();
    for answer in [first, last].into_iter().chain(queued) {
        assert!(wait(answer).is_ok());
    }
    assert!(remote.ended());
}

#[test]
fn an_idle_worker_ends_with_its_last_handle() {
    let (house, remote) = instant(config(2, HOUR, 8));
    let clone = house.batcher.clone();
    let answer = house.send(1.0);
    drop(house);
    assert!(wait(answer).is_ok());
    // time for the worker to fall asleep, so that it must be woken to end
    std::thread::sleep(Duration::from_millis(30));
    drop(clone);
    assert!(remote.ended());
}

#[test]
fn a_worker_that_is_gone_leaves_nobody_waiting() {
    let metrics = Metrics::new(&[]).model(&ModelLabels::default());
    let queue = Arc::new(Queue::new(2, config(8, HOUR, 8), metrics, &["cpu"]));
    let handle = Arc::new(Handle {
        queue: Arc::clone(&queue),
    });
    let mut ticket = Ticket::new(handle, 2).unwrap();
    let before = ticket
        .take_one()
        .unwrap()
        .submit(Image::Tensor(vec![1.0, 1.0]), terms());
    let loss = queue.leave(0).unwrap();
    assert_eq!((loss.is_news, loss.devices_left), (true, 0));
    assert_eq!(loss.failed.len(), 1, "to be answered");
    drop(loss);
    assert_eq!(wait(before).unwrap_err(), BatchError::Closed);
    assert_eq!((queue.load().admitted, queue.load().on_its_way), (1, 1));
    let after = wait(ticket.submit(Image::Tensor(vec![1.0, 1.0]), terms()));
    let reason = "lost cpu (its worker panicked, which is a bug)";
    assert_eq!(queue.lost().as_deref(), Some(reason));
    assert_eq!(after.unwrap_err(), BatchError::Lost(reason.into()));
    assert!(queue.leave(0).is_none(), "it has left");
    assert_eq!((queue.load().admitted, queue.load().on_its_way), (0, 0));
}

#[test]
fn remains_tell_when_the_engines_have_gone() {
    let (engine, mut remote) = Fake::gated(sum_and_difference);
    let house = House::new(vec![engine], config(8, HOUR, 8));
    let answer = house.send(1.0);
    assert_eq!(remote.arrival(), 1);
    let remains = house.batcher.remains();
    drop(house);
    assert!(!remains.have_ended(), "a batch is under way");
    remote.open();
    assert!(wait(answer).is_ok());
    eventually("the worker leaves", || remains.have_ended());
    assert!(remote.ended());
}
