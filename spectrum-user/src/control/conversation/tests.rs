//! Conversations over pairs of sockets, with a test in the place of the instance.

use std::sync::atomic::AtomicUsize;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::task::yield_now;

use super::*;

const STATUS: &[u8] = b"{\"request\":\"status\"}\n";

fn begin(conversations: &mut Conversations) -> UnixStream {
    let (theirs, ours) = UnixStream::pair().unwrap();
    conversations.begin(ours);
    theirs
}

async fn hear(stream: UnixStream) -> String {
    let mut heard = String::new();
    BufReader::new(stream).read_to_string(&mut heard).await.unwrap();
    heard
}

#[tokio::test]
async fn a_list_is_made_while_it_is_read() {
    let (requests, mut asked) = mpsc::channel(1);
    let mut conversations = Conversations::new(requests);
    for (count, batch) in [(0, 1), (1, 1), (5, 2), (100_000, 100)] {
        let mut stream = begin(&mut conversations);
        stream.write_all(b"{\"request\":\"bindings\"}\n").await.unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&made);
        let batches = (0..count).step_by(batch).map(move |from| {
            counting.fetch_add(1, Ordering::Relaxed);
            (from..count.min(from + batch)).collect::<Vec<usize>>()
        });
        asked.recv().await.unwrap().listed(batches);
        if count > 1000 {
            // A reader that does not read has no more made than a socket holds.
            sleep(Duration::from_millis(300)).await;
            assert!(made.load(Ordering::Relaxed) < 900, "{made:?}");
        }
        let heard: Value = serde_json::from_str(&hear(stream).await).unwrap();
        let numbers: Vec<u64> =
            heard["done"].as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..count as u64).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn who_hangs_up_before_the_answer_is_forgotten_and_who_only_stops_talking_is_not() {
    let (requests, mut asked) = mpsc::channel(4);
    let mut conversations = Conversations::new(requests);
    let mut leaver = begin(&mut conversations);
    leaver.write_all(STATUS).await.unwrap();
    let left = asked.recv().await.unwrap();
    assert!(!left.is_gone());
    drop(leaver);
    timeout(Duration::from_secs(20), conversations.one_ended()).await.unwrap();
    assert!(left.is_gone());

    let mut listener = begin(&mut conversations);
    listener.write_all(STATUS).await.unwrap();
    listener.shutdown().await.unwrap();
    let stays = asked.recv().await.unwrap();
    sleep(GLANCE * 3).await;
    assert!(!stays.is_gone());
    stays.done(&7);
    assert_eq!(hear(listener).await, "{\"done\":7}\n");
}

#[tokio::test]
async fn the_oldest_silent_one_gives_way_and_who_has_asked_does_not() {
    let (requests, mut asked) = mpsc::channel(AT_ONCE + 1);
    let mut conversations = Conversations::new(requests);
    let mut first = begin(&mut conversations);
    first.write_all(STATUS).await.unwrap();
    let first_asked = asked.recv().await.unwrap();
    let mut silent: VecDeque<UnixStream> = (1..AT_ONCE).map(|_| begin(&mut conversations)).collect();
    for _ in 0..100 {
        assert!(conversations.has_room());
        silent.push_back(begin(&mut conversations));
        yield_now().await;
        // It is closed without a word.
        assert_eq!(hear(silent.pop_front().unwrap()).await, "");
    }
    first_asked.done(&1);
    assert_eq!(hear(first).await, "{\"done\":1}\n");
    // As soon as all have asked, one more waits until one has its answer.
    for stream in &mut silent {
        stream.write_all(STATUS).await.unwrap();
    }
    let mut last = begin(&mut conversations);
    last.write_all(STATUS).await.unwrap();
    let mut all = Vec::new();
    while all.len() < AT_ONCE {
        all.push(asked.recv().await.unwrap());
    }
    assert!(!conversations.has_room());
    all.remove(0).done(&2);
    timeout(Duration::from_secs(20), async {
        while !conversations.has_room() {
            conversations.one_ended().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_to_take_an_answer_gives_way_when_places_are_short_and_ends_in_any_case() {
    let (requests, mut asked) = mpsc::channel(AT_ONCE);
    let mut conversations = Conversations::new(requests);
    let mut slow = Vec::new();
    for _ in 0..AT_ONCE {
        let mut stream = begin(&mut conversations);
        stream.write_all(STATUS).await.unwrap();
        asked.recv().await.unwrap().done(&"x".repeat(1 << 20));
        slow.push(stream);
        yield_now().await;
    }
    assert!(!conversations.has_room());
    let begun = Instant::now();
    while !conversations.has_room() {
        sleep(GLANCE).await;
    }
    assert!(begun.elapsed() >= SLOW.min(PATIENCE));
    for _ in 0..AT_ONCE {
        conversations.one_ended().await;
    }
    assert!(begun.elapsed() < ANSWER);
}
