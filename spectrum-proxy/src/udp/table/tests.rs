//! The table against a list that is searched from end to end. Asks nothing of sockets.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// The same, told by looking at every session.
#[derive(Default)]
struct Plain(Vec<(Key, Rank, Instant, u64, SessionId)>);

impl Plain {
    fn count(&self, group: GroupId) -> usize {
        self.0.iter().filter(|(key, ..)| key.group == group).count()
    }

    fn least_of(&self, group: GroupId) -> Option<SessionId> {
        let of_group = self.0.iter().filter(|(key, ..)| key.group == group);
        of_group.min_by_key(|(_, rank, used, turn, _)| (*rank as usize, *used, *turn)).map(|(.., id)| *id)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Answered(u8),
    Evict(u8),
    Insert(u8),
    Rekey(u8),
    Remove(u8),
    Touch(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..24u8).prop_map(Step::Answered),
        1 => (0..3u8).prop_map(Step::Evict),
        4 => (0..24u8).prop_map(Step::Insert),
        1 => (0..24u8).prop_map(Step::Rekey),
        1 => (0..24u8).prop_map(Step::Remove),
        3 => (0..24u8).prop_map(Step::Touch),
    ]
}

fn key(group: GroupId, number: u8) -> Key {
    Key {
        group,
        client: SocketAddr::from(([192, 0, 2, number], 4000)),
        dialled: SocketAddr::from(([198, 51, 100, 1], 53)),
        via: None,
    }
}

proptest! {
    #[test]
    fn the_table_says_what_a_search_finds(steps in proptest::collection::vec(step(), 0..300)) {
        let begin = Instant::now();
        let mut table = SessionTable::new();
        let groups = [(); 3].map(|()| table.add_group());
        let mut plain = Plain::default();
        let mut gone = Vec::new();
        for (turn, step) in (0_u64..).zip(steps) {
            // Several within the same moment.
            let now = begin + Duration::from_secs(turn / 3);
            let of = |number: u8| key(groups[usize::from(number % 3)], number);
            match step {
                Step::Insert(number) => {
                    if table.find(&of(number)).is_none() {
                        let id = table.insert(of(number), Rank::Unanswered, now, number);
                        plain.0.push((of(number), Rank::Unanswered, now, turn, id));
                    }
                }
                Step::Rekey(number) => {
                    // To the next number of the same group.
                    let next = of((number + 3) % 24);
                    if let (Some(id), None) = (table.find(&of(number)), table.find(&next)) {
                        table.rekey(id, next);
                        plain.0.iter_mut().filter(|(.., known)| *known == id).for_each(|entry| entry.0 = next);
                    }
                }
                Step::Touch(number) | Step::Answered(number) => {
                    let answered = matches!(step, Step::Answered(_));
                    if let Some(id) = table.find(&of(number)) {
                        if answered { table.answered(id, now) } else { table.touch(id, now) }
                    }
                    if let Some(entry) = plain.0.iter_mut().find(|(key, ..)| *key == of(number)) {
                        (entry.2, entry.3) = (now, turn);
                        if answered {
                            entry.1 = Rank::Answered;
                        }
                    }
                }
                Step::Remove(number) => {
                    let removed = table.find(&of(number)).and_then(|id| Some(table.remove(id)?.0));
                    let before = plain.0.len();
                    gone.extend(plain.0.iter().filter(|(key, ..)| *key == of(number)).map(|(.., id)| *id));
                    plain.0.retain(|(key, ..)| *key != of(number));
                    prop_assert_eq!(removed, (plain.0.len() < before).then_some(of(number)));
                }
                Step::Evict(group) => {
                    let group = groups[usize::from(group)];
                    let most = groups.iter().map(|group| plain.count(*group)).max().unwrap();
                    let chosen = table.dispensable(group);
                    prop_assert_eq!(chosen.is_some(), !plain.0.is_empty());
                    if let Some(id) = chosen {
                        let (key, _) = table.remove(id).unwrap();
                        prop_assert_eq!(plain.least_of(key.group), Some(id));
                        prop_assert!(key.group == group || plain.count(key.group) == most);
                        plain.0.retain(|(.., known)| *known != id);
                        gone.push(id);
                    }
                }
            }
            prop_assert_eq!(table.len(), plain.0.len());
            for group in groups {
                prop_assert_eq!(table.count(group), plain.count(group));
                prop_assert_eq!(table.least_of(group), plain.least_of(group));
                prop_assert_eq!(table.ids_of(group).len(), plain.count(group));
            }
            for (key, .., id) in &plain.0 {
                prop_assert_eq!(table.find(key), Some(*id));
                prop_assert_eq!(SessionId::from_bits(id.to_bits()), *id);
            }
            prop_assert!(gone.iter().all(|id| table.get(*id).is_none()));
            let lists = table.peopled().into_iter().flat_map(|group| {
                [Rank::Unanswered, Rank::Answered].map(|rank| table.oldest_of(group, rank))
            });
            let oldest = lists.flatten().map(|(_, used)| used).min();
            prop_assert_eq!(oldest, plain.0.iter().map(|(_, _, used, ..)| *used).min());
        }
        prop_assert_eq!(table.drain().len(), plain.0.len());
        prop_assert_eq!(table.len(), 0);
    }
}

/// A table with groups that have so many sessions each, each a second younger than the one before it.
fn filled(counts: &[u8]) -> (SessionTable<u8>, Vec<GroupId>) {
    let (begin, mut table) = (Instant::now(), SessionTable::new());
    let groups = counts.iter().map(|count| {
        let group = table.add_group();
        for number in 0..*count {
            let used = begin + Duration::from_secs(number.into());
            table.insert(key(group, number), Rank::Unanswered, used, number);
        }
        group
    });
    let groups = groups.collect();
    (table, groups)
}

#[test]
fn who_has_as_much_as_the_others_gives_up_its_own() {
    let (mut table, groups) = filled(&[90, 10, 0]);
    for group in &groups {
        assert_eq!(table.dispensable(*group), table.find(&key(groups[0], 0)), "who has little loses nothing");
    }
    assert!(table.remove(table.find(&key(groups[0], 0)).unwrap()).is_some());
    let (equal, groups) = filled(&[50, 50]);
    assert_eq!(equal.dispensable(groups[1]), equal.find(&key(groups[1], 0)));
}

#[test]
fn a_flood_displaces_itself_and_nobody_who_was_answered() {
    let (mut table, groups) = filled(&[20, 20]);
    let later = Instant::now() + Duration::from_secs(1000);
    let honest: Vec<SessionId> = groups.iter().flat_map(|group| table.ids_of(*group)).collect();
    for id in &honest {
        table.answered(*id, later);
    }
    for number in 0..5000_u16 {
        if table.len() >= 100 {
            let gone = table.dispensable(groups[0]).unwrap();
            assert!(!honest.contains(&gone));
            table.remove(gone);
        }
        let [high, low] = number.to_be_bytes();
        let client = SocketAddr::from(([203, 0, high, low], 1));
        table.insert(Key { client, ..key(groups[0], 0) }, Rank::Unanswered, later, 0);
    }
    assert!(honest.iter().all(|id| table.get(*id).is_some()));
    assert_eq!((table.len(), table.count(groups[1])), (100, 20));
}
