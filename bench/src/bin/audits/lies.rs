//! What a worker says its progress was, and was not: cheats that need nobody else, and every
//! attack of `opengpu_bench::ATTACKS`.

use anyhow::Result;
use opengpu_bench::{ATTACKS, Attack, Data, random, word};
use opengpu_merge::{CHUNK, Layout};
use opengpu_trainer_protocol::{TensorShape, TrainRequest};

use crate::machine::USUAL;
use crate::round::{Round, difference};

/// One of them.
pub struct Lie {
    pub name: String,
    /// Whether it is wrong in all chunks, by more than the widest tolerance: then no audit may
    /// miss it.
    pub is_everywhere: bool,
    how: How,
}

/// How it comes about.
enum How {
    /// The assignment trained in another way, as a cheat does it.
    Trained(fn(&mut TrainRequest)),
    /// From the weights of a round before.
    FromOlder,
    /// True progress times this.
    Times(f32),
    /// True progress and noise, so many times as long.
    Noise(f32),
    /// True progress with another sign in this part of the chunks.
    Turned(f64),
    Attack(Attack),
}

/// The cheats, then the attacks.
pub fn all() -> Vec<Lie> {
    let cheat = |name: &str, is_everywhere, how| Lie {
        name: name.to_owned(),
        is_everywhere,
        how,
    };
    let mut lies = vec![
        cheat("other data", true, How::Trained(|r| r.seed += 1000)),
        cheat(
            "last tenth not trained",
            false,
            How::Trained(|r| fewer(r, 9)),
        ),
        cheat("half not trained", true, How::Trained(|r| fewer(r, 5))),
        cheat("nothing trained", true, How::Times(0.0)),
        cheat("from the weights of a round before", true, How::FromOlder),
        cheat("sign turned", true, How::Times(-1.0)),
        cheat("ten times too long", true, How::Times(10.0)),
        cheat("a tenth too long", false, How::Times(1.1)),
        cheat("noise of a half", true, How::Noise(0.5)),
        cheat("noise of a tenth", false, How::Noise(0.1)),
        cheat(
            "sign turned in a tenth of the chunks",
            false,
            How::Turned(0.1),
        ),
    ];
    lies.extend(ATTACKS.map(|attack| Lie {
        name: format!("attack: {}", word(&attack)),
        is_everywhere: true,
        how: How::Attack(attack),
    }));
    lies
}

fn fewer(request: &mut TrainRequest, tenths: u64) {
    let (start, end) = request.blocks[0];
    request.at_most_blocks = Some((end - start) * tenths / 10);
}

impl Lie {
    /// The progress that the worker commits itself to.
    pub fn tell(&self, data: &Data, round: &Round) -> Result<Vec<f32>> {
        let own = || round.progress(&round.machines[0].first);
        let layout = || Layout::new(data.model.tensors().iter().map(TensorShape::len));
        Ok(match self.how {
            How::Trained(change) => {
                let mut request = round.own(data);
                change(&mut request);
                trained(data, round, &request, false)?
            }
            How::FromOlder => {
                let mut tokens = data.training()?;
                let request = round.own(data);
                let (_, local) = round.go(data, &USUAL, &request, &mut tokens, &round.older)?;
                difference(&round.older, &local)
            }
            How::Times(factor) => own().iter().map(|value| value * factor).collect(),
            How::Noise(times) => noisy(own(), times, round.seed),
            How::Turned(part) => turned(own(), &layout(), part),
            How::Attack(attack) => {
                let effort = attack.effort();
                let poisons = attack == Attack::PoisonedData;
                let own = match effort < 1.0 || poisons {
                    false => own(),
                    true => {
                        let mut request = round.own(data);
                        let (start, end) = request.blocks[0];
                        let blocks = ((end - start) as f64 * effort).ceil() as u64;
                        request.at_most_blocks = Some(blocks);
                        trained(data, round, &request, poisons)?
                    }
                };
                let honest: Vec<&[f32]> = round.honest.iter().map(Vec::as_slice).collect();
                attack.forge(&layout(), &own, &round.before, &honest, round.seed)
            }
        })
    }
}

/// Progress of the usual machine, on the run's text or on a poisoner's.
fn trained(data: &Data, round: &Round, request: &TrainRequest, poisoned: bool) -> Result<Vec<f32>> {
    let mut tokens = match poisoned {
        true => data.poisoned()?,
        false => data.training()?,
    };
    let (_, local) = round.go(data, &USUAL, request, &mut tokens, &round.base)?;
    Ok(round.progress(&local))
}

/// With noise on top, `times` as long as the whole.
fn noisy(mut progress: Vec<f32>, times: f32, seed: u64) -> Vec<f32> {
    let length: f32 = progress.iter().map(|p| p * p).sum::<f32>().sqrt();
    let scale = times * length / (progress.len() as f32).sqrt();
    let mut state = seed;
    let mut uniform = || {
        state = random::mix(state);
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    for value in &mut progress {
        // A sum of four uniform numbers, near enough to a bell curve of variance 1/3.
        let bell: f32 = (0..4).map(|_| uniform() - 0.5).sum();
        *value += scale * bell * 3f32.sqrt();
    }
    progress
}

fn turned(mut progress: Vec<f32>, layout: &Layout, part: f64) -> Vec<f32> {
    let chunks = (layout.chunk_count() as f64 * part).ceil() as usize;
    let end = (chunks * CHUNK).min(progress.len());
    progress[..end]
        .iter_mut()
        .for_each(|value| *value = -*value);
    progress
}
