// The npm package etcd3 against a three-node cluster, while its leader is killed.
//
// Run by ../node_suite.py with the endpoints. A line that begins with `!` asks it to do something to
// the cluster (see ../program.py). What each case says must hold for real etcd just as well.
'use strict';

const assert = require('node:assert');
const readline = require('node:readline');
const { Etcd3, EtcdLockFailedError } = require('etcd3');

// Only a hang takes this long.
const PATIENCE_MS = 60_000;

const endpoints = process.argv.slice(2);
const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function ask(what) {
  console.log(`!${what}`);
  return (await answers.next()).value;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const connect = (hosts = endpoints) => new Etcd3({ hosts: hosts.map((host) => `http://${host}`) });
const client = connect();

// Tries again what a lost leader may spoil, as every user of this client does.
async function persist(what) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await what();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await pause(50);
    }
  }
}

async function until(what, probe) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await probe())) {
    assert(Date.now() < deadline, `waited for ${what}`);
    await pause(20);
  }
}

const cases = {
  async 'keys come and go'() {
    await client.put('node/a').value('1');
    assert.strictEqual(await client.get('node/a').string(), '1');
    await client.put('node/b').value(Buffer.from([0, 255]));
    assert.deepStrictEqual(await client.get('node/b').buffer(), Buffer.from([0, 255]));
    assert.strictEqual(await client.get('node/none').string(), null);
    assert.deepStrictEqual(await client.getAll().prefix('node/').keys(), ['node/a', 'node/b']);
    const sorted = await client.getAll().prefix('node/').sort('Key', 'Descend').limit(1).keys();
    assert.deepStrictEqual(sorted, ['node/b']);
    assert.strictEqual(await client.getAll().prefix('node/').count(), 2);
    assert.strictEqual((await client.delete().key('node/b')).deleted, '1');
    assert.strictEqual(await client.getAll().prefix('node/').count(), 1);
    const before = await client.put('node/a').value('2').getPrevious();
    assert.strictEqual(before.value.toString(), '1');
  },

  async 'transactions compare and act'() {
    await client.put('txn/a').value('1');
    const yes = await client.if('txn/a', 'Value', '==', '1')
      .then(client.put('txn/b').value('yes')).else(client.put('txn/b').value('no')).commit();
    assert.strictEqual(yes.succeeded, true);
    const no = await client.if('txn/none', 'Create', '>', 0)
      .then(client.put('txn/b').value('wrong')).else(client.get('txn/b')).commit();
    assert.strictEqual(no.succeeded, false);
    assert.strictEqual(no.responses[0].response_range.kvs[0].value.toString(), 'yes');
  },

  async 'errors are etcd\'s'() {
    await assert.rejects(client.put('').value('x').exec(), /key is not provided/);
    await assert.rejects(client.get('node/a').revision(1 << 30).exec(), /future revision/);
    await assert.rejects(client.leaseClient.leaseRevoke({ ID: 4711 }), /requested lease not found/);
    await assert.rejects(client.auth.authEnable(), /root user does not exist/);
  },

  async 'a lease keeps its keys until it is revoked'() {
    const lease = client.lease(10);
    await lease.put('lease/a').value('1');
    assert.strictEqual(await client.get('lease/a').string(), '1');
    await ask('kill-leader');
    await pause(1000);
    assert.strictEqual(await persist(() => client.get('lease/a').string()), '1');
    await ask('start-killed');
    await persist(() => lease.revoke());
    assert.strictEqual(await client.get('lease/a').string(), null);
  },

  async 'a lease without its client ends'() {
    const orphan = client.lease(2);
    await orphan.put('lease/b').value('1');
    orphan.release();
    await until('the lease to end', async () => (await client.get('lease/b').string()) === null);
  },

  async 'a lock has one holder'() {
    const lock = client.lock('lock').ttl(10);
    await lock.acquire();
    await assert.rejects(connect().lock('lock').ttl(10).acquire(), EtcdLockFailedError);
    await lock.release();
    const next = connect().lock('lock').ttl(10);
    await next.acquire();
    await next.release();
  },

  async 'a watch misses nothing while the leader dies'() {
    const watcher = await connect().watch().prefix('watch/').create();
    const seen = new Set();
    let last = 0;
    let ordered = true;
    const record = (pair) => {
      const revision = Number(pair.mod_revision);
      ordered &&= revision > last;
      last = revision;
      seen.add(pair.key.toString());
    };
    watcher.on('put', record);
    const acknowledged = [];
    for (let number = 0; number < 300; number += 1) {
      if (number === 150) await ask('kill-leader');
      try {
        await client.put(`watch/${number}`).value('1');
        acknowledged.push(`watch/${number}`);
      } catch {
        // It may have happened or not.
      }
    }
    await ask('start-killed');
    assert(acknowledged.length > 200, `${acknowledged.length} acknowledged`);
    await until('all events', async () => acknowledged.every((key) => seen.has(key)));
    assert(ordered, 'revisions in order, each once');
    await watcher.cancel();
  },

  async 'transactional memory keeps the sum while the leader dies'() {
    const accounts = ['stm/a', 'stm/b', 'stm/c'];
    for (const account of accounts) await client.put(account).value(100);
    // Serializable. The package's own default wants keys to be older than the oldest one read, and so
    // never succeeds with keys that were written one after the other.
    const options = { retries: 1000, isolation: 1 };
    const moves = async (worker) => {
      for (let round = 0; round < 10; round += 1) {
        const [from, to] = [accounts[(worker + round) % 3], accounts[(worker + round + 1) % 3]];
        // A transfer that ended in an error may have happened; either way the sum stays.
        await persist(() => client.stm(options).transact(async (stm) => {
          const had = await stm.get(from).number();
          const has = await stm.get(to).number();
          await stm.put(from).value(had - 1);
          await stm.put(to).value(has + 1);
        }));
        if (worker === 0 && round === 5) await ask('kill-leader');
      }
    };
    await Promise.all([0, 1].map(moves));
    await ask('start-killed');
    let sum = 0;
    for (const account of accounts) sum += await client.get(account).number();
    assert.strictEqual(sum, 300);
  },

  async 'an election has a winner, and another when he goes'() {
    const [one, two] = [connect().election('election', 10), connect().election('election', 10)];
    const first = one.campaign('one');
    await new Promise((done, failed) => first.on('elected', done).on('error', failed));
    assert.strictEqual(await client.election('election').leader(), 'one');
    const second = two.campaign('two');
    const elected = new Promise((done, failed) => second.on('elected', done).on('error', failed));
    await first.resign();
    await elected;
    await until('the second', async () => (await client.election('election').leader()) === 'two');
    await second.resign();
  },

  async 'nothing acknowledged is lost with the leader'() {
    const acknowledged = new Map();
    const write = async (writer) => {
      const own = connect();
      for (let number = 0; number < 150; number += 1) {
        try {
          await own.put(`kept/${writer}/${number}`).value(number);
          acknowledged.set(`kept/${writer}/${number}`, number);
        } catch {
          // It may have happened or not.
        }
        if (writer === 0 && number === 50) await ask('kill-leader');
      }
      own.close();
    };
    await Promise.all([0, 1, 2, 3].map(write));
    await ask('start-killed');
    assert(acknowledged.size > 300, `${acknowledged.size} acknowledged`);
    await persist(() => client.put('kept/~').value('the end'));
    for (const endpoint of endpoints) {
      const one = connect([endpoint]);
      const read = () => one.getAll().prefix('kept/').serializable(true).numbers();
      await until(`${endpoint} to catch up`, async () => {
        const found = await persist(() => one.get('kept/~').serializable(true).string());
        return found === 'the end';
      });
      const found = await read();
      for (const [key, value] of acknowledged) assert.strictEqual(found[key], value, key);
      one.close();
    }
  },
};

async function main() {
  let [passed, failed] = [0, 0];
  for (const [name, body] of Object.entries(cases)) {
    let timer;
    const hung = new Promise((_, refuse) => {
      timer = setTimeout(() => refuse(new Error('it hangs')), 2 * PATIENCE_MS);
    });
    try {
      await Promise.race([body(), hung]);
      passed += 1;
      console.log(`passed ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}: ${error.stack}`);
    }
    clearTimeout(timer);
  }
  console.log(`node: ${passed} passed, ${failed} failed`);
  process.exit(failed > 0 ? 1 : 0);
}

main();
