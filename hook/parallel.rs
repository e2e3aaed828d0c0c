//! Parallel work on all machines.

/// Calls a function for each item, each in a thread. Returns the results in the order of the items.
pub fn map<'a, T: Sync, R: Send>(items: &'a [T], act: impl Fn(&'a T) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> = items
            .iter()
            .map(|item| scope.spawn(move || act(item)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
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
}
