--- _OSTLS, one table per state, and _TLS, one per logical run. The numbers are those of the reference's list.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

local SCHED = threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED
local HAS_PAIRS = helper.interpreter.version ~= "5.1"

local function settle()
    helper.eventually(function()
        threadpool.poll()
        return threadpool.pending() == 0
    end)
end

-- What _TLS holds, as a plain table.
local function contents()
    local copy = {}
    for key, value in next, threadpool.tls() do
        copy[key] = value
    end
    return copy
end

local function clear()
    for key in next, threadpool.tls() do
        threadpool._TLS[key] = nil
    end
end

describe("_OSTLS", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    it("TLS-1 is an empty table at first", function()
        local fresh = threadpool.fixed(1)
        local ok, kind, key = fresh:run(function() return type(_OSTLS), (next(_OSTLS)) end)
        assert.are.same({ true, "table", nil }, { ok, kind, key })
        fresh:shutdown()
    end)

    it("TLS-2 keeps what a task put there for later tasks of the same worker", function()
        pool:run(function() _OSTLS.value = { 1 } end)
        assert.are.same({ true, { 1 } }, { pool:run(function() return _OSTLS.value end) })
        local ok, same = pool:run(function()
            _OSTLS.fn = print
            return _OSTLS == threadpool._OSTLS and _OSTLS.fn == print
        end)
        assert.are.same({ true, true }, { ok, same })
    end)

    it("TLS-2 is not seen by another worker, nor by the host, nor the host's by a worker", function()
        local other = threadpool.fixed(1)
        threadpool._OSTLS.place = "host"
        pool:run(function() _OSTLS.place = "worker" end)
        assert.are.same({ true, nil }, { other:run(function() return _OSTLS.place end) })
        assert.are.equal("host", threadpool._OSTLS.place)
        assert.are.same({ true, "worker" }, { pool:run(function() return _OSTLS.place end) })
        threadpool._OSTLS.place = nil
        other:shutdown()
    end)

    it("is one table for the life of the state", function()
        assert.is_true(threadpool._OSTLS == threadpool._OSTLS)
        local here = coroutine.wrap(function() return threadpool._OSTLS end)()
        assert.is_true(here == threadpool._OSTLS)
    end)

    it("may hold what cannot travel", function()
        pool:run(function() _OSTLS.file = io.tmpfile() end)
        assert.are.same({ true, "file" }, { pool:run(function() return io.type(_OSTLS.file) end) })
    end)

    it("TLS-7 captured by a closure, it is the worker's: it is never copied", function()
        local captured = threadpool._OSTLS
        captured.secret = "host"
        local ok, same, secret = pool:run(function() return captured == _OSTLS, _OSTLS.secret end)
        captured.secret = nil
        assert.are.same({ true, true, nil }, { ok, same, secret })
    end)

    it("TLS-5 of a completion is its closure's, or with SCHED the submitter's", function()
        local here
        threadpool._OSTLS.mark = "host"
        threadpool.runInPool(pool, function() _OSTLS.mark = "worker" end, function()
            _OSTLS.completed = _OSTLS.mark
        end)
        threadpool.runInPool(pool, function() end, function() here = threadpool._OSTLS.mark end, SCHED)
        settle()
        assert.are.same({ true, "worker" }, { pool:run(function() return _OSTLS.completed end) })
        assert.are.equal("host", here)
        threadpool._OSTLS.mark = nil
    end)
end)

describe("_TLS", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    it("TLS-1 is an empty table at first", function()
        assert.are.equal("table", type(threadpool._TLS))
        assert.are.same({}, contents())
        local ok, kind, key, absent = pool:run(function()
            return type(_TLS), (next(threadpool.tls())), _TLS.absent
        end)
        assert.are.same({ true, "table", nil, nil }, { ok, kind, key, absent })
    end)

    it("TLS-3 is never seen by another task of the same worker", function()
        for n = 1, 20 do
            local ok, before = pool:run(function()
                local before = _TLS.value
                _TLS.value = n
                _TLS[n] = true
                return before
            end)
            assert.are.same({ true, nil }, { ok, before })
            clear() -- the call has carried it back
            pool:post(function()
                _OSTLS.posted_before = _OSTLS.posted_before or _TLS.value
                _TLS.value = "post"
            end)
            local future = pool:submit(function()
                local seen = _TLS.value
                _TLS.value = "submit"
                return seen, _OSTLS.posted_before
            end)
            assert.are.same({ true }, { future:await() })
        end
        settle()
    end)

    it("TLS-3 not even when that failed, or is asleep", function()
        pool:run(function()
            _TLS.failed = true
            error "x"
        end)
        clear()
        local asleep = pool:submit(function()
            _TLS.asleep = "mine"
            while not _OSTLS.look do
                threadpool.sleep(0.001)
            end
            return _TLS.asleep, _TLS.other
        end)
        assert.are.same({ true, nil, nil }, {
            pool:run(function()
                local failed, sleeping = _TLS.failed, _TLS.asleep
                _TLS.other = "theirs"
                _OSTLS.look = true
                return failed, sleeping
            end),
        })
        assert.are.same({ true, "mine", nil }, { asleep:await(helper.TIMEOUT) })
        clear()
    end)

    it("TLS-4 a coroutine has its own, empty at first, and the same _OSTLS", function()
        local ok, seen, inner, after, same = pool:run(function()
            _TLS.value = "task"
            _OSTLS.value = "state"
            local co = coroutine.create(function()
                local seen = _TLS.value
                _TLS.value = "coroutine"
                coroutine.yield(seen, _OSTLS.value)
                return _TLS.value
            end)
            local _, seen, shared = coroutine.resume(co)
            _TLS.value = "task again"
            local _, inner = coroutine.resume(co)
            return seen, inner, _TLS.value, shared == "state"
        end)
        assert.are.same({ true, nil, "coroutine", "task again", true }, { ok, seen, inner, after, same })
        clear()
    end)

    it("TLS-4 so has a coroutine of the host", function()
        threadpool._TLS.value = "main"
        local seen = { coroutine.wrap(function()
            local before = threadpool._TLS.value
            threadpool._TLS.value = "coroutine"
            return before, threadpool._TLS.value
        end)() }
        assert.are.same({ nil, "coroutine" }, seen)
        assert.are.equal("main", threadpool._TLS.value)
        clear()
    end)

    it("is carried in by runInPool and pool:run, and its changes back", function()
        for _, run in ipairs { pool.run, threadpool.runInPool } do
            threadpool._TLS.count, threadpool._TLS.gone, threadpool._TLS.list = 1, "here", { 1 }
            local ok, gone = run(pool, function()
                local gone = _TLS.gone
                _TLS.count = _TLS.count + 1
                _TLS.gone = nil
                _TLS.list[2] = 2
                _TLS.new = { "new" }
                return gone
            end)
            assert.are.same({ true, "here" }, { ok, gone })
            assert.are.same({ count = 2, list = { 1, 2 }, new = { "new" } }, contents())
            clear()
        end
    end)

    it("is carried back from a task that failed, too", function()
        threadpool._TLS.stage = "before"
        pool:run(function()
            _TLS.stage = "reached"
            error "failed then"
        end)
        assert.are.equal("reached", threadpool._TLS.stage)
        clear()
    end)

    it("goes in as a copy: nothing shows here before the end", function()
        local shared = { 1 }
        threadpool._TLS.shared = shared
        local ok, same = pool:run(function()
            _TLS.shared[1] = 2
            return _TLS.shared == shared and _TLS.shared[1]
        end)
        assert.are.same({ true, 2 }, { ok, same }) -- one packet: what is shared stays shared
        assert.are.same({ 1 }, shared)
        clear()
    end)

    it("what cannot travel stays behind, and the rest goes", function()
        local file = io.tmpfile()
        threadpool._TLS.file, threadpool._TLS.value = file, 1
        local ok, there, value = pool:run(function()
            local there = _TLS.file
            _TLS.value = _TLS.value + 1
            _TLS.handle = io.tmpfile()
            return there, _TLS.value
        end)
        assert.are.same({ true, nil, 2 }, { ok, there, value })
        assert.is_true(threadpool._TLS.file == file)
        assert.are.equal(2, threadpool._TLS.value)
        assert.is_nil(threadpool._TLS.handle)
        clear()
    end)

    it("is not carried by the asynchronous forms: there it is empty", function()
        threadpool._TLS.value = "host"
        local future = pool:submit(function() return _TLS.value, (next(threadpool.tls())) end)
        assert.are.same({ true, nil, nil }, { future:await() })
        pool:post(function() _OSTLS.posted = _TLS.value end)
        threadpool.runInPool(pool, function() _OSTLS.async = _TLS.value end, true)
        threadpool.runInPool(pool, function() _OSTLS.closure = _TLS.value end, function()
            _OSTLS.completion = _TLS.value
        end)
        settle()
        assert.are.same({ true, nil, nil, nil, nil }, {
            pool:run(function() return _OSTLS.posted, _OSTLS.async, _OSTLS.closure, _OSTLS.completion end),
        })
        clear()
    end)

    it("is the closure's in a completion on the same worker", function()
        threadpool.runInPool(pool, function() _TLS.value = "closure" end, function()
            _OSTLS.in_completion = _TLS.value
        end)
        settle()
        assert.are.same({ true, "closure" }, { pool:run(function() return _OSTLS.in_completion end) })
    end)

    it("nested calls carry it on, each from its caller", function()
        threadpool._TLS.path = "host"
        local id = pool.id
        local ok = pool:run(function()
            _TLS.path = _TLS.path .. " > task"
            threadpool.runInPool(id, function()
                _TLS.path = _TLS.path .. " > inner"
                threadpool.runInPool("CPU", function() _TLS.path = _TLS.path .. " > cpu" end)
            end)
            _TLS.path = _TLS.path .. " > back"
        end)
        assert.is_true(ok)
        assert.are.same({ path = "host > task > inner > cpu > back" }, contents())
        clear()
    end)

    it("TLS-7 captured by a closure, it is that task's: it is never copied", function()
        local captured = threadpool._TLS
        captured.secret = "host"
        local future = pool:submit(function() return captured == _TLS, captured.secret end)
        local ok, same, secret = future:await()
        clear()
        assert.are.same({ true, true, nil }, { ok, same, secret })
    end)

    it("tls() is a plain copy", function()
        threadpool._TLS.value = 1
        local copy = threadpool.tls()
        assert.are.same({ "table", 1 }, { type(copy), rawget(copy, "value") })
        copy.value = 2
        assert.are.equal(1, threadpool._TLS.value)
        clear()
    end)

    if HAS_PAIRS then
        it("pairs walks over it", function()
            threadpool._TLS.a, threadpool._TLS.b = 1, 2
            local seen = {}
            for key, value in pairs(threadpool._TLS) do
                seen[key] = value
            end
            assert.are.same({ a = 1, b = 2 }, seen)
            clear()
        end)
    end

    it("keeps no coroutine alive", function()
        local weak = setmetatable({}, { __mode = "k" })
        do
            local co = coroutine.create(function()
                threadpool._TLS.value = {}
                coroutine.yield()
            end)
            coroutine.resume(co)
            weak[co] = true
        end
        collectgarbage()
        collectgarbage()
        assert.is_nil(next(weak))
    end)
end)

describe("TLS-6 under globals that are strict", function()
    local STRICT = [[
        setmetatable(_G, {
            __index = function(_, name) error("undeclared: " .. tostring(name), 2) end,
            __newindex = function(_, name) error("undeclared: " .. tostring(name), 2) end,
        })
    ]]
    local LOAD = [[ local threadpool = require "threadpool" ]]
    local USE = [[
        threadpool._OSTLS.a, threadpool._TLS.b = 1, 2
        print(threadpool.runInPool("CPU", function()
            setmetatable(_G, { __index = function(_, name) error("undeclared: " .. tostring(name), 2) end })
            _OSTLS.x, _TLS.y = 3, 4
            return type(_OSTLS), type(_TLS), _OSTLS.x + _TLS.y + _TLS.b
        end))
        threadpool.runInPool("CPU", function() end, function() end)
        threadpool.runInPool("CPU", function() end, function() end, threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED)
        print(threadpool.fixed(1):submit(function() return 1 end):await())
        while threadpool.pending() > 0 do threadpool.wait() end
    ]]

    it("set before the module is loaded, and after", function()
        for _, program in ipairs { STRICT .. LOAD .. USE, LOAD .. STRICT .. USE } do
            local status, out, err = helper.run(program)
            assert.are.same({ 0, "true\ttable\ttable\t9\ntrue\t1\n", "" }, { status, out, err })
        end
    end)

    it("the host gets no globals", function()
        local status, out = helper.run [[
            require "threadpool"
            print(rawget(_G, "_TLS"), rawget(_G, "_OSTLS"), rawget(_G, "threadpool"))
        ]]
        assert.are.same({ 0, "nil\tnil\tnil\n" }, { status, out })
    end)
end)
