//! Which way to a GPU is taken where several interfaces show the same one.
//!
//! The way that trains in bfloat16 is worth most; of ways that are worth the same the first
//! is taken, in the order in which they were found. None is tried that could not be worth more
//! than what was already found.

/// A way to a GPU: the GPU as one interface shows it.
pub trait Way {
    /// Whether both are known to lead to the same GPU.
    fn is_same_card(&self, other: &Self) -> bool;
    /// Whether a program on the processor offers it.
    fn is_software(&self) -> bool;
    /// What it is worth if all goes well.
    fn promise(&self) -> Worth;
}

/// What a way to a GPU is worth, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// It trains with the backend's ordinary operations.
    Plain,
    /// It trains with fused operations.
    Fused,
    /// It trains with fused operations in bfloat16 too.
    Bfloat16,
}

/// Every GPU once, in the order in which they were found and software last, each with its ways.
pub fn cards<W: Way>(ways: Vec<W>) -> Vec<Vec<W>> {
    let mut cards: Vec<Vec<W>> = Vec::new();
    for way in ways {
        let known = cards
            .iter_mut()
            .find(|card| card.iter().any(|other| other.is_same_card(&way)));
        match known {
            Some(card) => card.push(way),
            None => cards.push(vec![way]),
        }
    }
    cards.sort_by_key(|card| card.iter().all(W::is_software));
    cards
}

/// The best way of a card, and why each that was tried in vain is of no use. `attempt` tries a
/// way; it says what the way is worth, or why it is of no use.
pub fn best<W: Way, T, E>(
    mut card: Vec<W>,
    mut attempt: impl FnMut(W) -> Result<(Worth, T), E>,
) -> (Option<T>, Vec<E>) {
    card.sort_by_key(|way| std::cmp::Reverse(way.promise()));
    let mut best: Option<(Worth, T)> = None;
    let mut failures = Vec::new();
    for way in card {
        let worth = best.as_ref().map(|(worth, _)| *worth);
        if worth >= Some(way.promise()) {
            break;
        }
        match attempt(way) {
            Ok(found) if Some(found.0) > worth => best = Some(found),
            Ok(_) => {}
            Err(failure) => failures.push(failure),
        }
    }
    (best.map(|(_, found)| found), failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Fake {
        name: &'static str,
        /// Zero where the interface does not say.
        address: u32,
        software: bool,
        promise: Worth,
    }

    impl Way for Fake {
        fn is_same_card(&self, other: &Self) -> bool {
            self.address != 0 && self.address == other.address
        }

        fn is_software(&self) -> bool {
            self.software
        }

        fn promise(&self) -> Worth {
            self.promise
        }
    }

    fn way(name: &'static str, address: u32, promise: Worth) -> Fake {
        Fake {
            name,
            address,
            software: false,
            promise,
        }
    }

    fn names(cards: &[Vec<Fake>]) -> Vec<Vec<&'static str>> {
        let names = |card: &Vec<Fake>| card.iter().map(|way| way.name).collect();
        cards.iter().map(names).collect()
    }

    /// What is taken, what was tried for it, and what failed.
    fn choose(
        card: &[Fake],
        outcomes: &[(&'static str, Option<Worth>)],
    ) -> (Option<&'static str>, Vec<&'static str>, Vec<&'static str>) {
        let mut tried = Vec::new();
        let (taken, failed) = best(card.to_vec(), |way| {
            tried.push(way.name);
            let outcome = outcomes.iter().find(|(name, _)| *name == way.name);
            match outcome.and_then(|(_, worth)| *worth) {
                Some(worth) => Ok((worth, way.name)),
                None => Err(way.name),
            }
        });
        (taken, tried, failed)
    }

    #[test]
    fn a_gpu_that_two_interfaces_show_is_one_gpu() {
        let software = Fake {
            software: true,
            ..way("lavapipe", 0, Worth::Fused)
        };
        let found = vec![
            way("first (Vulkan)", 1, Worth::Fused),
            software.clone(),
            way("second (Vulkan)", 2, Worth::Fused),
            way("second (CUDA)", 2, Worth::Bfloat16),
            way("third (CUDA)", 3, Worth::Bfloat16),
        ];
        let expected = vec![
            vec!["first (Vulkan)"],
            vec!["second (Vulkan)", "second (CUDA)"],
            vec!["third (CUDA)"],
            vec!["lavapipe"],
        ];
        assert_eq!(names(&cards(found)), expected);
    }

    #[test]
    fn gpus_that_do_not_say_where_they_are_stay_apart() {
        let found = vec![way("one", 0, Worth::Fused), way("another", 0, Worth::Fused)];
        assert_eq!(names(&cards(found)), [["one"], ["another"]]);
        assert!(cards(Vec::<Fake>::new()).is_empty());
    }

    #[test]
    fn the_way_that_trains_in_bfloat16_is_taken_and_no_other_tried() {
        let card = [
            way("Vulkan", 1, Worth::Fused),
            way("CUDA", 1, Worth::Bfloat16),
        ];
        let works = [
            ("Vulkan", Some(Worth::Fused)),
            ("CUDA", Some(Worth::Bfloat16)),
        ];
        assert_eq!(
            choose(&card, &works),
            (Some("CUDA"), vec!["CUDA"], Vec::new())
        );
    }

    #[test]
    fn of_ways_worth_the_same_the_first_is_taken() {
        for promise in [Worth::Fused, Worth::Bfloat16] {
            let card = [way("Vulkan", 1, promise), way("CUDA", 1, promise)];
            let works = [("Vulkan", Some(promise)), ("CUDA", Some(promise))];
            assert_eq!(
                choose(&card, &works),
                (Some("Vulkan"), vec!["Vulkan"], Vec::new())
            );
        }
    }

    #[test]
    fn a_way_that_fails_is_told_and_the_next_is_taken() {
        let card = [
            way("Vulkan", 1, Worth::Fused),
            way("CUDA", 1, Worth::Bfloat16),
        ];
        assert_eq!(
            choose(&card, &[("Vulkan", Some(Worth::Fused))]),
            (Some("Vulkan"), vec!["CUDA", "Vulkan"], vec!["CUDA"])
        );
        assert_eq!(
            choose(&card, &[]),
            (None, vec!["CUDA", "Vulkan"], vec!["CUDA", "Vulkan"])
        );
    }

    #[test]
    fn a_way_that_keeps_less_than_it_promised_gives_place_to_a_better_one_alone() {
        let card = [
            way("Vulkan", 1, Worth::Fused),
            way("CUDA", 1, Worth::Bfloat16),
        ];
        let fused = [("Vulkan", Some(Worth::Fused)), ("CUDA", Some(Worth::Fused))];
        assert_eq!(
            choose(&card, &fused),
            (Some("CUDA"), vec!["CUDA"], Vec::new())
        );
        let plain = [("Vulkan", Some(Worth::Fused)), ("CUDA", Some(Worth::Plain))];
        assert_eq!(
            choose(&card, &plain),
            (Some("Vulkan"), vec!["CUDA", "Vulkan"], Vec::new())
        );
        let both = [("Vulkan", Some(Worth::Plain)), ("CUDA", Some(Worth::Plain))];
        assert_eq!(choose(&card, &both).0, Some("CUDA"));
    }
}
