// jetcd against a three-node cluster, while its leader is killed.
//
// Run by ../java_suite.py with the endpoints. A line that begins with `!` asks it to do something to
// the cluster (see ../program.py). What each case says must hold for real etcd just as well. jetcd is
// the one of the clients here that leaves locks and elections to the server.

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.election.CampaignResponse;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.grpc.stub.StreamObserver;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;

public final class Suite {
    /** Only a hang takes this long. */
    private static final long PATIENCE_S = 60;

    private static String[] endpoints;
    private static Client client;
    private static final BufferedReader ANSWERS =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));

    interface Body {
        void run() throws Exception;
    }

    private static ByteSequence bytes(String text) {
        return ByteSequence.from(text, StandardCharsets.UTF_8);
    }

    private static String text(ByteSequence bytes) {
        return bytes.toString(StandardCharsets.UTF_8);
    }

    private static <T> T await(CompletableFuture<T> future) throws Exception {
        return future.get(PATIENCE_S, TimeUnit.SECONDS);
    }

    private static Client connect(String... hosts) {
        List<String> urls = new ArrayList<>();
        for (String host : hosts) {
            urls.add("http://" + host);
        }
        return Client.builder().endpoints(urls.toArray(new String[0])).build();
    }

    private static void ask(String what) throws Exception {
        System.out.println("!" + what);
        System.out.flush();
        ANSWERS.readLine();
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    private static void until(String what, BooleanSupplier holds) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_S);
        while (!holds.getAsBoolean()) {
            check(System.nanoTime() < deadline, "waited for " + what);
            Thread.sleep(20);
        }
    }

    /** Tries again what a lost leader may spoil, as every user of this client does. */
    private static <T> T persist(Callable<T> what) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_S);
        for (;;) {
            try {
                return what.call();
            } catch (Exception error) {
                if (System.nanoTime() > deadline) {
                    throw error;
                }
                Thread.sleep(50);
            }
        }
    }

    private static String value(String key) throws Exception {
        List<KeyValue> found = await(client.getKVClient().get(bytes(key))).getKvs();
        return found.isEmpty() ? null : text(found.get(0).getValue());
    }

    private static void put(String key, String value) throws Exception {
        await(client.getKVClient().put(bytes(key), bytes(value)));
    }

    private static void refused(String why, CompletableFuture<?> future) throws Exception {
        try {
            await(future);
        } catch (java.util.concurrent.ExecutionException error) {
            check(String.valueOf(error.getMessage()).contains(why), error.getMessage());
            return;
        }
        throw new AssertionError("not refused: " + why);
    }

    private static void keys() throws Exception {
        KV keys = client.getKVClient();
        put("java/a", "1");
        put("java/b", "2");
        check("1".equals(value("java/a")), "what was put");
        GetOption prefix = GetOption.builder().isPrefix(true)
            .withSortField(GetOption.SortTarget.KEY).withSortOrder(GetOption.SortOrder.DESCEND)
            .withLimit(1).build();
        GetResponse some = await(keys.get(bytes("java/"), prefix));
        check(some.getCount() == 2 && some.isMore() && some.getKvs().size() == 1, "a limit");
        check(text(some.getKvs().get(0).getKey()).equals("java/b"), "an order");
        DeleteOption all = DeleteOption.builder().isPrefix(true).withPrevKV(true).build();
        check(await(keys.delete(bytes("java/"), all)).getPrevKvs().size() == 2, "what was deleted");
    }

    private static void transactions() throws Exception {
        put("txn/a", "1");
        Cmp same = new Cmp(bytes("txn/a"), Cmp.Op.EQUAL, CmpTarget.value(bytes("1")));
        Op yes = Op.put(bytes("txn/b"), bytes("yes"), PutOption.DEFAULT);
        Op no = Op.put(bytes("txn/b"), bytes("no"), PutOption.DEFAULT);
        check(await(client.getKVClient().txn().If(same).Then(yes).Else(no).commit()).isSucceeded(),
            "the comparison holds");
        check("yes".equals(value("txn/b")), "the branch taken");
    }

    private static void errors() throws Exception {
        refused("key is not provided",
            client.getKVClient().put(ByteSequence.EMPTY, ByteSequence.EMPTY));
        refused("future revision", client.getKVClient().get(bytes("a"),
            GetOption.builder().withRevision(1L << 40).build()));
        refused("requested lease not found", client.getLeaseClient().revoke(4711));
        refused("root user does not exist", client.getAuthClient().authEnable());
    }

    private static void leases() throws Exception {
        long lease = await(client.getLeaseClient().grant(3)).getID();
        await(client.getKVClient().put(bytes("lease/a"), bytes("1"),
            PutOption.builder().withLeaseId(lease).build()));
        AtomicInteger renewed = new AtomicInteger();
        StreamObserver<LeaseKeepAliveResponse> observer = new StreamObserver<>() {
            @Override
            public void onNext(LeaseKeepAliveResponse response) {
                renewed.incrementAndGet();
            }

            @Override
            public void onError(Throwable error) {}

            @Override
            public void onCompleted() {}
        };
        try (var alive = client.getLeaseClient().keepAlive(lease, observer)) {
            until("a renewal", () -> renewed.get() > 0);
            ask("kill-leader");
            int before = renewed.get();
            until("a renewal by the next leader", () -> renewed.get() > before);
            ask("start-killed");
            check("1".equals(persist(() -> value("lease/a"))), "the key of a living lease");
        }
        until("the lease to end", () -> {
            try {
                return value("lease/a") == null;
            } catch (Exception error) {
                return false;
            }
        });
        check(await(client.getLeaseClient().timeToLive(lease, LeaseOption.DEFAULT)).getTTL() == -1,
            "what is over has no time left");
    }

    private static void locks() throws Exception {
        long one = await(client.getLeaseClient().grant(60)).getID();
        long two = await(client.getLeaseClient().grant(60)).getID();
        ByteSequence held = await(client.getLockClient().lock(bytes("lock"), one)).getKey();
        CompletableFuture<?> waits = client.getLockClient().lock(bytes("lock"), two);
        try {
            waits.get(300, TimeUnit.MILLISECONDS);
            throw new AssertionError("two hold one lock");
        } catch (TimeoutException expected) {
            check(!waits.isDone(), "it waits");
        }
        await(client.getLockClient().unlock(held));
        await(waits);
        await(client.getLeaseClient().revoke(one));
        await(client.getLeaseClient().revoke(two));
    }

    private static void elections() throws Exception {
        long one = await(client.getLeaseClient().grant(60)).getID();
        long two = await(client.getLeaseClient().grant(60)).getID();
        var elections = client.getElectionClient();
        CampaignResponse first = await(elections.campaign(bytes("elect"), one, bytes("one")));
        CompletableFuture<CampaignResponse> second =
            elections.campaign(bytes("elect"), two, bytes("two"));
        check(text(await(elections.leader(bytes("elect"))).getKv().getValue()).equals("one"), "one");
        await(elections.proclaim(first.getLeader(), bytes("one again")));
        check(text(await(elections.leader(bytes("elect"))).getKv().getValue()).equals("one again"),
            "what was proclaimed");
        check(!second.isDone(), "two lead");
        await(elections.resign(first.getLeader()));
        await(second);
        check(text(await(elections.leader(bytes("elect"))).getKv().getValue()).equals("two"), "two");
        await(client.getLeaseClient().revoke(two));
        refused("NoLeaderException", elections.leader(bytes("elect")));
    }

    private static void watches() throws Exception {
        Set<String> seen = ConcurrentHashMap.newKeySet();
        List<Long> revisions = Collections.synchronizedList(new ArrayList<>());
        Client own = connect(endpoints);
        long from = await(client.getKVClient().get(bytes("watch/"))).getHeader().getRevision() + 1;
        WatchOption option = WatchOption.builder().isPrefix(true).withRevision(from).build();
        try (Watch.Watcher watcher = own.getWatchClient().watch(bytes("watch/"), option, response ->
            response.getEvents().forEach(event -> {
                revisions.add(event.getKeyValue().getModRevision());
                seen.add(text(event.getKeyValue().getKey()));
            }))) {
            List<String> acknowledged = new ArrayList<>();
            for (int number = 0; number < 300; number++) {
                if (number == 150) {
                    ask("kill-leader");
                }
                try {
                    put("watch/" + number, "1");
                    acknowledged.add("watch/" + number);
                } catch (Exception error) {
                    // It may have happened or not.
                }
            }
            ask("start-killed");
            check(acknowledged.size() > 200, acknowledged.size() + " acknowledged");
            until("all events", () -> seen.containsAll(acknowledged));
            for (int index = 1; index < revisions.size(); index++) {
                check(revisions.get(index) > revisions.get(index - 1), "in order, each once");
            }
        } finally {
            own.close();
        }
    }

    private static void nothingIsLost() throws Exception {
        Map<String, String> acknowledged = new ConcurrentHashMap<>();
        ExecutorService writers = Executors.newFixedThreadPool(4);
        List<Future<?>> running = new ArrayList<>();
        for (int number = 0; number < 4; number++) {
            int writer = number;
            running.add(writers.submit(() -> {
                for (int each = 0; each < 150; each++) {
                    String key = "kept/" + writer + "/" + each;
                    try {
                        put(key, String.valueOf(each));
                        acknowledged.put(key, String.valueOf(each));
                    } catch (Exception error) {
                        // It may have happened or not.
                    }
                    if (writer == 0 && each == 50) {
                        ask("kill-leader");
                    }
                }
                return null;
            }));
        }
        for (Future<?> each : running) {
            each.get(2 * PATIENCE_S, TimeUnit.SECONDS);
        }
        writers.shutdown();
        ask("start-killed");
        check(acknowledged.size() > 300, acknowledged.size() + " acknowledged");
        persist(() -> {
            put("kept/~", "the end");
            return null;
        });
        GetOption here = GetOption.builder().isPrefix(true).withSerializable(true).build();
        for (String endpoint : endpoints) {
            try (Client one = connect(endpoint)) {
                Map<String, String> found = new HashMap<>();
                until(endpoint + " to catch up", () -> {
                    try {
                        for (KeyValue pair : await(one.getKVClient().get(bytes("kept/"), here)).getKvs()) {
                            found.put(text(pair.getKey()), text(pair.getValue()));
                        }
                    } catch (Exception error) {
                        return false;
                    }
                    return found.containsKey("kept/~");
                });
                acknowledged.forEach((key, value) ->
                    check(value.equals(found.get(key)), endpoint + " lost " + key));
            }
        }
    }

    public static void main(String[] arguments) {
        endpoints = arguments;
        client = connect(arguments);
        Map<String, Body> cases = new LinkedHashMap<>();
        cases.put("keys come and go", Suite::keys);
        cases.put("transactions compare and act", Suite::transactions);
        cases.put("errors are etcd's", Suite::errors);
        cases.put("a lease is kept alive through the loss of the leader", Suite::leases);
        cases.put("a lock of the server has one holder", Suite::locks);
        cases.put("an election of the server has one winner", Suite::elections);
        cases.put("a watch misses nothing while the leader dies", Suite::watches);
        cases.put("nothing acknowledged is lost with the leader", Suite::nothingIsLost);
        int passed = 0;
        int failed = 0;
        for (Map.Entry<String, Body> each : cases.entrySet()) {
            try {
                each.getValue().run();
                passed++;
                System.out.println("passed " + each.getKey());
            } catch (Throwable error) {
                failed++;
                System.out.println("FAILED " + each.getKey() + ": " + error);
                error.printStackTrace(System.out);
            }
            System.out.flush();
        }
        System.out.println("java: " + passed + " passed, " + failed + " failed");
        System.out.flush();
        System.exit(failed > 0 ? 1 : 0);
    }
}
