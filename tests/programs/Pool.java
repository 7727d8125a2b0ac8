import java.io.File;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** Java at work: a thread pool, a scheduled task, garbage by the megabyte. argv: go file. Prints each round's number. */
public class Pool {
    static void expect(String name, Object found, Object wanted) {
        if (!found.equals(wanted)) {
            System.out.println(name + ": " + found + " instead of " + wanted);
            System.exit(1);
        }
    }

    static long sum(long from, long to) {
        HashMap<Long, Long> squares = new HashMap<>();
        for (long number = from; number < to; number++) squares.put(number, number * number);
        return squares.values().stream().mapToLong(Long::longValue).sum();
    }

    /** The clock goes on, however late on a busy machine. */
    static void awaitTick(AtomicLong ticks, long before) throws Exception {
        for (int patience = 0; ticks.get() == before && patience < 10_000; patience++) Thread.sleep(1);
        expect("a tick", ticks.get() > before, true);
    }

    public static void main(String[] arguments) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        ScheduledExecutorService clock = Executors.newScheduledThreadPool(1);
        AtomicLong ticks = new AtomicLong();
        clock.scheduleAtFixedRate(ticks::incrementAndGet, 0, 5, TimeUnit.MILLISECONDS);
        File go = new File(arguments[0]);
        System.out.println("ready");
        for (int round = 1; !go.exists(); round++) {
            long before = ticks.get();
            List<Callable<Long>> parts = new ArrayList<>();
            for (long part = 0; part < 8; part++) {
                long start = part * 5000;
                parts.add(() -> sum(start, start + 5000));
            }
            long total = 0;
            for (Future<Long> part : pool.invokeAll(parts)) total += part.get();
            expect("sum of squares", total, 39999L * 40000L * 79999L / 6);
            Thread.sleep(20);
            awaitTick(ticks, before);
            System.out.println(round);
        }
        pool.shutdown();
        clock.shutdown();
        expect("end of the pool", pool.awaitTermination(60, TimeUnit.SECONDS), true);
        System.out.println("ok");
    }
}
