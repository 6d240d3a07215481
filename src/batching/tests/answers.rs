//! What is wanted of the images of a batch, and what comes of it.

use super::*;
use crate::engine::Best;

fn submit(house: &House, first: f32, wanted: Wanted) -> Answer {
    let ticket = house.batcher.admit(1).unwrap();
    let terms = Terms { wanted, ..terms() };
    ticket.submit(Image::Tensor(vec![first, 1.0]), terms)
}

/// Runs images with these wishes as one batch, and returns what was wanted of it and what each was told.
fn together(ranking: bool, wishes: &[Wanted]) -> (Wanted, Vec<engine::Answer>) {
    let (fake, mut remote) = Fake::gated(sum_and_difference);
    let fake = if ranking { fake.ranking() } else { fake };
    let house = House::new(vec![fake], config(8, HOUR, 8));
    let first = submit(&house, 0.0, Wanted::Logits);
    assert_eq!(remote.arrival(), 1);
    let answers = wishes.iter().enumerate();
    let answers: Vec<Answer> = answers
        .map(|(i, &wanted)| submit(&house, i as f32, wanted))
        .collect();
    remote.open();
    assert!(wait(first).is_ok());
    let told = |answer| {
        let output = wait(answer).unwrap();
        assert_eq!(output.batch_size, wishes.len());
        output.answer
    };
    let told = answers.into_iter().map(told).collect();
    let wanted = *remote.record.wanted.lock().unwrap().last().unwrap();
    (wanted, told)
}

fn logits(i: usize) -> [f32; 2] {
    [i as f32 + 1.0, i as f32 - 1.0]
}

#[test]
fn images_that_want_the_best_get_what_the_engine_found() {
    let (wanted, told) = together(true, &[Wanted::Best(1), Wanted::Best(2), Wanted::Best(1)]);
    assert_eq!(wanted, Wanted::Best(2));
    for (i, answer) in told.into_iter().enumerate() {
        assert_eq!(answer, engine::Answer::Best(Best::of(&logits(i), 2)), "{i}");
    }
}

#[test]
fn one_that_wants_logits_brings_them_to_all() {
    let (wanted, told) = together(true, &[Wanted::Best(1), Wanted::Logits, Wanted::Best(2)]);
    assert_eq!(wanted, Wanted::Logits);
    for (i, answer) in told.into_iter().enumerate() {
        assert_eq!(answer, engine::Answer::Logits(logits(i).to_vec()), "{i}");
    }
}

#[test]
fn an_engine_may_give_logits_whatever_is_wanted() {
    let (wanted, told) = together(false, &[Wanted::Best(1), Wanted::Best(1)]);
    assert_eq!(wanted, Wanted::Best(1));
    for (i, answer) in told.into_iter().enumerate() {
        assert_eq!(answer, engine::Answer::Logits(logits(i).to_vec()), "{i}");
    }
}
