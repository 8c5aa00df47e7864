//! How long operations take, by the clock.

mod operations;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use self::operations::{Length, Measure, Operation};

impl Measure for Criterion {
    fn measure<T, F: FnMut() -> T>(
        &mut self,
        operation: &Operation<'_>,
        prepare: impl FnOnce() -> F,
    ) {
        let mut group = self.benchmark_group(operation.group);
        if let Some(bytes) = operation.bytes {
            group.throughput(Throughput::Bytes(bytes as u64));
        }
        if operation.length == Length::Long {
            group.sample_size(20);
        }
        let mut prepare = Some(prepare);
        let mut prepared = None;
        group.bench_function(operation.name, |bencher| {
            // Called several times for one measurement, and not at all where filtered out.
            if let Some(prepare) = prepare.take() {
                prepared = Some(prepare());
            }
            let Some(run) = &mut prepared else { return };
            match operation.length {
                Length::Short => bencher.iter(run),
                Length::Long => bencher.iter_batched(|| (), |()| run(), BatchSize::PerIteration),
            }
        });
        group.finish();
    }
}

fn all(criterion: &mut Criterion) {
    operations::all(criterion);
}

criterion_group!(benches, all);
criterion_main!(benches);
