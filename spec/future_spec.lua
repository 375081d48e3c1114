--- Futures: what pool:submit returns.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

local function pack(...)
    return { n = select("#", ...), ... }
end

describe("a future", function()
    local pool

    setup(function()
        pool = threadpool.fixed(2)
    end)

    teardown(function()
        pool:shutdown()
    end)

    -- A task that blocks a worker until `open` is called.
    local function held(fn)
        local path, open = helper.gate()
        local future = pool:submit(function()
            io.open(path):read()
            return (fn or tostring)(7)
        end)
        return future, function()
            open()
            future:await(helper.TIMEOUT)
            os.remove(path)
        end
    end

    it("await gives true and all values", function()
        assert.are.same({ n = 4, true, 1, nil, nil }, pack(pool:submit(function() return 1, nil, nil end):await()))
        assert.are.same({ n = 1, true }, pack(pool:submit(function() end):await()))
        assert.are.same({ n = 4, true, 3, nil, nil }, pack(pool:submit(function(...)
            return select("#", ...), nil, nil
        end, nil, nil, nil):await()))
    end)

    it("await gives false and the error", function()
        assert.are.same({ n = 2, false, { "why" } }, pack(pool:submit(function() error { "why" } end):await()))
        assert.are.same({ n = 2, false, nil }, pack(pool:submit(function() error() end):await()))
    end)

    it("await with a time gives nil and a timeout; the future goes on", function()
        local future, release = held()
        for _, seconds in ipairs { 0, 0.01 } do
            local values = pack(future:await(seconds))
            assert.are.equal(2, values.n)
            assert.is_nil(values[1])
            assert.are.equal("timeout", values[2].code)
            assert.matches("^timeout: ", tostring(values[2]))
        end
        assert.are.equal(1, threadpool.pending())
        release()
        assert.are.same({ true, "7" }, { future:await() })
        assert.are.equal(0, threadpool.pending())
    end)

    it("await again gives the same again", function()
        local good, bad = pool:submit(function() return 1, nil, 3, nil end), pool:submit(function() error { 1 } end)
        for _ = 1, 3 do
            assert.are.same({ n = 5, true, 1, nil, 3, nil }, pack(good:await()))
            assert.are.same({ n = 2, false, { 1 } }, pack(bad:await(1)))
            assert.are.same({ n = 4, 1, nil, 3, nil }, pack(good:get()))
        end
        -- The same objects: an outcome is brought back once.
        assert.is_true(select(2, bad:await()) == select(2, bad:await()))
    end)

    it("get gives the values or raises the error as it is", function()
        assert.are.same({ n = 2, 1, nil }, pack(pool:submit(function() return 1, nil end):get()))
        local ok, err = pcall(function() return pool:submit(function() error { "why" } end):get() end)
        assert.are.same({ false, { "why" } }, { ok, err })
        ok, err = pcall(function() return pool:submit(function() error("text", 0) end):get(helper.TIMEOUT) end)
        assert.are.same({ false, "text" }, { ok, err })
    end)

    it("get with a time raises a timeout; the future goes on", function()
        local future, release = held()
        local ok, err = pcall(function() return future:get(0.01) end)
        assert.is_false(ok)
        assert.are.equal("timeout", err.code)
        release()
        assert.are.equal("7", future:get())
    end)

    it("state says how far it is", function()
        local good, release_good = held()
        local bad, release_bad = held(error)
        local function waits(future)
            local state = future:state()
            return state == "pending" or state == "processing"
        end
        assert.is_true(waits(good))
        assert.is_true(waits(bad))
        good:await(0.01)
        assert.is_true(waits(good))
        release_good()
        assert.are.equal("fulfilled", good:state())
        assert.is_true(waits(bad))
        release_bad()
        assert.are.equal("rejected", bad:state())
        assert.are.equal("fulfilled", good:state())
    end)

    it("state turns without an await, when the loop polls", function()
        local future = pool:submit(function() end)
        helper.eventually(function()
            threadpool.poll()
            return future:state() == "fulfilled"
        end)
        assert.are.equal(0, threadpool.pending())
        assert.are.same({ n = 1, true }, pack(future:await(0)))
    end)

    it("traceback is the task's, or nil", function()
        local function fails() error "here" end
        local bad = pool:submit(function() fails() end)
        bad:await()
        assert.matches("stack traceback:", bad:traceback())
        assert.matches("future_spec%.lua:%d+: in ", bad:traceback())
        local good = pool:submit(function() end)
        good:await()
        assert.is_nil(good:traceback())
        local waiting, release = held()
        assert.is_nil(waiting:traceback())
        release()
    end)

    it("can be awaited in any order", function()
        local futures = {}
        for n = 1, 200 do
            futures[n] = pool:submit(function() return n end)
        end
        for n = 200, 1, -1 do
            assert.are.same({ true, n }, { futures[n]:await(helper.TIMEOUT) })
        end
        assert.are.equal(0, threadpool.pending())
    end)

    it("can be awaited inside a task: only the task waits", function()
        local one = threadpool.fixed(1)
        local id = one.id
        local ok, sum = one:run(function()
            local futures, mine = {}, threadpool.pool(id)
            for n = 1, 10 do
                futures[n] = mine:submit(function() return n end)
            end
            local sum = 0
            for n = 1, 10 do
                sum = sum + futures[n]:get()
            end
            return sum
        end)
        assert.are.same({ true, 55 }, { ok, sum })
        one:shutdown()
    end)

    it("await inside a task keeps its time", function()
        local id = pool.id
        local ok, none, code = pool:run(function()
            local future = threadpool.pool(id):submit(function() threadpool.sleep(0.2) end)
            local none, err = future:await(0.01)
            return none, err.code
        end)
        assert.are.same({ true, nil, "timeout" }, { ok, none, code })
    end)

    it("dropped before it ends still counts and ends", function()
        local path = os.tmpname()
        pool:submit(function()
            local file = io.open(path, "w")
            file:write "ran"
            file:close()
        end)
        collectgarbage()
        helper.eventually(function()
            threadpool.poll()
            return threadpool.pending() == 0
        end)
        assert.are.equal("ran", helper.content(path))
        os.remove(path)
    end)

    it("refuses wrong arguments with the place of the call", function()
        local future = pool:submit(function() end)
        for _, call in ipairs {
            function() future:await "soon" end,
            function() future:await {} end,
            function() future:get "soon" end,
            function() pool:submit() end,
            function() pool:submit "text" end,
        } do
            local ok, err = pcall(call)
            assert.is_false(ok)
            assert.matches("future_spec%.lua:%d+: ", err)
        end
        future:await()
    end)

    it("of a call with the wrong object raises, and does not crash", function()
        local future = pool:submit(function() end)
        for _, name in ipairs { "await", "get", "state", "traceback" } do
            for _, wrong in ipairs { {}, "x", 1, io.stdout, pool } do
                assert.is_false((pcall(future[name], wrong)))
            end
            assert.is_false((pcall(future[name])))
        end
        future:await()
    end)

    it("is not worth waiting for longer than asked: times that are odd", function()
        local future, release = held()
        for _, seconds in ipairs { 0, -1, 1e-9 } do
            assert.is_nil((future:await(seconds)))
        end
        release()
        for _, seconds in ipairs { math.huge, 1e300, 1e18 } do
            assert.are.same({ true, "7" }, { future:await(seconds) })
            assert.are.same({ true, 1 }, { pool:submit(function() return 1 end):await(seconds) })
        end
    end)
end)
