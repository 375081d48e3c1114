--- Pools: how they are made and found, how tasks are given to them, how they end.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

local function pack(...)
    return { n = select("#", ...), ... }
end

local function settle()
    helper.eventually(function()
        threadpool.poll()
        return threadpool.pending() == 0
    end)
end

describe("a pool is made and found:", function()
    it("CPU and IO are there, ids 0 and 1, whatever the case", function()
        for _, key in ipairs { "CPU", "cpu", 0 } do
            assert.are.same({ "CPU", 0 }, { threadpool.pool(key).name, threadpool.pool(key).id })
        end
        for _, key in ipairs { "IO", "Io", 1 } do
            assert.are.same({ "IO", 1 }, { threadpool.pool(key).name, threadpool.pool(key).id })
        end
    end)

    it("an unknown one is nil and an error; asking makes none", function()
        local before = #threadpool.pools()
        for _, key in ipairs { "nobody", "", 4711, -1 } do
            local pool, err = threadpool.pool(key)
            assert.is_nil(pool)
            assert.are.equal("nopool", err.code)
        end
        assert.is_true(#threadpool.pools() <= before) -- some of before may have gone
    end)

    it("fixed with a name", function()
        local pool = threadpool.fixed(2, { name = "Named" })
        assert.are.equal("Named", pool.name)
        assert.are.equal(pool.id, threadpool.pool("nAMED").id)
        assert.are.equal("Named", threadpool.pool(pool.id).name)
        assert.is_true(pool:is_running())
        pool:shutdown()
    end)

    it("fixed without: its name is found too", function()
        local pool = threadpool.fixed(1)
        assert.are.equal("string", type(pool.name))
        assert.are.equal(pool.id, threadpool.pool(pool.name).id)
        assert.are.equal(pool.id, threadpool.pool(pool.id).id)
        pool:shutdown()
    end)

    it("a name that exists is refused, in any case; when its pool has ended it is free", function()
        local pool = threadpool.fixed(1, { name = "Taken" })
        for _, name in ipairs { "Taken", "TAKEN", "CPU", "io" } do
            assert.is_false((pcall(threadpool.fixed, 1, { name = name })))
        end
        pool:shutdown()
        assert.is_true(pool:wait_for_termination(helper.TIMEOUT))
        local again = threadpool.fixed(1, { name = "taken" })
        assert.are.same({ true, 1 }, { again:run(function() return 1 end) })
        again:shutdown()
    end)

    it("wrong arguments are refused with the place of the call", function()
        for _, call in ipairs {
            function() threadpool.fixed() end,
            function() threadpool.fixed(0) end,
            function() threadpool.fixed(-1) end,
            function() threadpool.fixed(1.5) end,
            function() threadpool.fixed "two" end,
            function() threadpool.fixed(1, "name") end,
            function() threadpool.fixed(1, { name = 5 }) end,
            function() threadpool.fixed(1, { name = {} }) end,
            function() threadpool.pool() end,
            function() threadpool.pool {} end,
        } do
            local ok, err = pcall(call)
            assert.is_false(ok)
            assert.matches("pool_spec%.lua:%d+: ", tostring(err))
        end
    end)

    it("an option that does not exist is refused: a typo", function()
        assert.is_false((pcall(threadpool.fixed, 1, { nmae = "typo" })))
    end)

    it("pools lists them once each, in the order of their ids", function()
        local one, two = threadpool.fixed(1, { name = "list-one" }), threadpool.fixed(1)
        threadpool.pool "CPU"
        local seen, last = {}, -1
        for _, pool in ipairs(threadpool.pools()) do
            assert.is_true(pool.id > last)
            last = pool.id
            seen[pool.id] = pool.name
        end
        assert.are.same({ "CPU", "list-one", two.name }, { seen[0], seen[one.id], seen[two.id] })
        one:shutdown()
        two:shutdown()
        one:wait_for_termination(helper.TIMEOUT)
        for _, pool in ipairs(threadpool.pools()) do
            assert.are_not.equal(one.id, pool.id)
        end
    end)

    it("processor_count is a whole number from 1", function()
        local count = threadpool.processor_count()
        assert.is_true(count >= 1 and count % 1 == 0)
    end)

    it("a pool says what it is, and a field that is none is nil or refused", function()
        local pool = threadpool.pool "CPU"
        assert.matches("CPU", tostring(pool))
        assert.is_false((pcall(function() pool.name = "other" end)))
        assert.are.equal("CPU", pool.name)
    end)
end)

describe("a pool", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    it("run gives the arguments to the task, and its outcome back", function()
        assert.are.same({ n = 5, true, 3, 1, nil, 3 }, pack(pool:run(function(...)
            return select("#", ...), ...
        end, 1, nil, 3)))
        assert.are.same({ false, { 1 } }, { pool:run(function() error { 1 } end) })
    end)

    it("post gives true at once, and the arguments to the task", function()
        local path, open = helper.gate()
        assert.are.same({ n = 1, true }, pack(pool:post(function() io.open(path):read() end)))
        assert.are.same({ n = 1, true }, pack(pool:post(function(...) _OSTLS.posted = { n = select("#", ...), ... } end,
            1, nil, 3, nil)))
        assert.are.equal(2, threadpool.pending())
        open()
        assert.are.same({ true, { n = 4, 1, nil, 3, nil } }, { pool:run(function() return _OSTLS.posted end) })
        settle()
        os.remove(path)
    end)

    it("lives on after a task has failed", function()
        for _ = 1, 20 do
            assert.is_false((pool:run(function() error "contained" end)))
        end
        assert.are.same({ true, "alive" }, { pool:run(function() return "alive" end) })
        assert.are.equal(1, pool:stats().length)
    end)

    it("stats counts workers, what waits and what has ended", function()
        local other = threadpool.fixed(2)
        assert.are.equal(0, other:stats().length)
        assert.are.equal(0, other:stats().queue_length)
        local path, open = helper.gate()
        local path2, open2 = helper.gate()
        local held = { path, path2 }
        for n = 1, 2 do
            local mine = held[n]
            other:post(function() io.open(mine):read() end)
        end
        for _ = 1, 5 do
            other:post(function() end)
        end
        helper.eventually(function() return other:stats().queue_length == 5 end)
        assert.are.equal(2, other:stats().length)
        open()
        open2()
        settle()
        helper.eventually(function() return other:stats().queue_length == 0 end)
        assert.are.equal(2, other:stats().length)
        other:shutdown()
        assert.is_true(other:wait_for_termination(helper.TIMEOUT))
        assert.are.equal(0, other:stats().length)
        os.remove(path)
        os.remove(path2)
    end)

    it("misused raises a message with the place of the call", function()
        for _, call in ipairs {
            function() pool:run() end,
            function() pool:run "text" end,
            function() pool:post() end,
            function() pool:post {} end,
        } do
            local ok, err = pcall(call)
            assert.is_false(ok)
            assert.matches("pool_spec%.lua:%d+: ", err)
        end
    end)

    it("methods called with the wrong object fail, and do not crash", function()
        local future = pool:submit(function() end)
        for _, name in ipairs {
            "run", "post", "submit", "shutdown", "wait_for_termination", "is_running", "is_shutdown", "stats",
        } do
            for _, wrong in ipairs { {}, true, io.stdout, future } do
                local raised, ok = pcall(pool[name], wrong, function() end)
                assert.is_false(raised and ok, name .. " of a " .. type(wrong))
            end
            assert.is_false((pcall(pool[name])), name .. " of nothing")
        end
        future:await()
    end)
end)

describe("a pool that is shut down", function()
    it("lets running and queued tasks end, takes no new ones", function()
        local pool = threadpool.fixed(1)
        local path, open = helper.gate()
        local out = os.tmpname()
        pool:post(function() io.open(path):read() end)
        for _ = 1, 5 do
            pool:post(function()
                local file = io.open(out, "a")
                file:write "x"
                file:close()
            end)
        end
        pool:shutdown()
        assert.are.same({ false, false }, { pool:is_running(), pool:is_shutdown() })
        assert.are.same({ n = 1, false }, pack(pool:wait_for_termination(0)))
        assert.are.same({ n = 1, false }, pack(pool:wait_for_termination(0.01)))

        local ok, err = pool:run(function() end)
        assert.are.same({ false, "rejected" }, { ok, err.code })
        ok, err = pcall(pool.post, pool, function() end)
        assert.are.same({ false, "rejected" }, { ok, err.code })

        open()
        assert.are.same({ n = 1, true }, pack(pool:wait_for_termination(helper.TIMEOUT)))
        assert.are.same({ false, true }, { pool:is_running(), pool:is_shutdown() })
        assert.are.equal("xxxxx", helper.content(out))
        settle()
        os.remove(path)
        os.remove(out)
    end)

    it("unused ends at once", function()
        local pool = threadpool.fixed(3)
        pool:shutdown()
        assert.is_true(pool:wait_for_termination(0))
        assert.is_true(pool:is_shutdown())
    end)

    it("twice is as once", function()
        local pool = threadpool.fixed(1)
        pool:run(function() end)
        pool:shutdown()
        pool:shutdown()
        assert.is_true(pool:wait_for_termination())
        pool:shutdown()
        assert.is_true(pool:wait_for_termination())
        assert.is_true(pool:wait_for_termination(0))
    end)

    it("idle workers leave", function()
        local pool = threadpool.fixed(2)
        pool:run(function() end)
        pool:run(function() end)
        pool:shutdown()
        assert.is_true(pool:wait_for_termination(helper.TIMEOUT))
        assert.are.equal(0, pool:stats().length)
    end)

    it("wait_for_termination of a running pool gives false", function()
        local pool = threadpool.fixed(1)
        assert.is_false(pool:wait_for_termination(0.01))
        assert.is_true(pool:is_running())
        pool:shutdown()
    end)

    it("parked tasks end too", function()
        local pool = threadpool.fixed(1)
        local future = pool:submit(function()
            threadpool.sleep(0.05)
            return "slept"
        end)
        pool:shutdown()
        assert.is_true(pool:wait_for_termination(helper.TIMEOUT))
        assert.are.same({ true, "slept" }, { future:await(helper.TIMEOUT) })
    end)

    it("outcomes that came back before can still be read", function()
        local pool = threadpool.fixed(1)
        local future = pool:submit(function() return "kept" end)
        pool:shutdown()
        pool:wait_for_termination()
        assert.are.same({ true, "kept" }, { future:await() })
    end)

    it("by one of its tasks", function()
        local pool = threadpool.fixed(1)
        local id = pool.id
        local ok, running = pool:run(function()
            local mine = threadpool.pool(id)
            mine:shutdown()
            return mine:is_running()
        end)
        assert.are.same({ true, false }, { ok, running })
        assert.is_true(pool:wait_for_termination(helper.TIMEOUT))
    end)

    it("CPU shut down appears anew at its next use", function()
        local status, out, err = helper.run [[
            local threadpool = require "threadpool"
            local cpu = threadpool.pool "CPU"
            print(cpu:run(function() return 1 end))
            cpu:shutdown()
            print(cpu:wait_for_termination(10))
            print(threadpool.runInPool("CPU", function() return 2 end))
            print(threadpool.runInPool(0, function() return 3 end))
        ]]
        assert.are.same({ 0, "true\t1\ntrue\ntrue\t2\ntrue\t3\n", "" }, { status, out, err })
    end)

    it("without a name, by the collector, when its last handle has gone: in order", function()
        local path = os.tmpname()
        local pool = threadpool.fixed(1)
        local id, name = pool.id, pool.name
        for _ = 1, 10 do
            pool:post(function()
                local file = io.open(path, "a")
                file:write "x"
                file:close()
            end)
        end
        pool = nil -- luacheck: ignore 311
        collectgarbage()
        collectgarbage()
        helper.eventually(function() return helper.content(path) == "xxxxxxxxxx" end)
        helper.eventually(function() return threadpool.pool(id) == nil and threadpool.pool(name) == nil end)
        settle()
        os.remove(path)
    end)

    it("with a name it stays without handles", function()
        threadpool.fixed(1, { name = "stays" })
        collectgarbage()
        collectgarbage()
        assert.are.same({ true, 1 }, { threadpool.runInPool("stays", function() return 1 end) })
        threadpool.pool("stays"):shutdown()
    end)
end)
