//! Parallel work on all machines.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The maximum number of threads.
const THREADS: usize = 256;

/// Calls a function for each item, in threads. Returns the results in the order of the items.
pub fn map<'a, T: Sync, R: Send>(items: &'a [T], act: impl Fn(&'a T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (act, next) = (&act, &next);
        let work = move || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                match items.get(index) {
                    Some(item) => done.push((index, act(item))),
                    None => return done,
                }
            }
        };
        let threads: Vec<_> = (0..items.len().min(THREADS))
            .map(|_| scope.spawn(work))
            .collect();
        let mut results: Vec<(usize, R)> = threads
            .into_iter()
            .flat_map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect();
        results.sort_unstable_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_have_the_order_of_the_items() {
        let slow_first = |number: &u64| {
            std::thread::sleep(std::time::Duration::from_millis(20 - 10 * number));
            number * 10
        };
        assert_eq!(super::map(&[0, 1, 2], slow_first), [0, 10, 20]);
    }

    #[test]
    fn there_may_be_more_items_than_threads() {
        let numbers: Vec<usize> = (0..10 * super::THREADS).collect();
        assert_eq!(super::map(&numbers, |number| *number), numbers);
    }
}
