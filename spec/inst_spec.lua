--- The inst: how the host's loop learns that something waits, and dispatches it.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, before_each, after_each = helper.plainly(describe, it, before_each, after_each)

local SCHED = threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED

-- Something that tells whether a descriptor is readable, without reading: libuv's poll, or poll(2) by LuaJIT.
local readable
local has_luv, luv = pcall(require, "luv")
local has_ffi, ffi = pcall(require, "ffi")
if has_luv then
    function readable(fd)
        local handle, seen = luv.new_poll(fd), false
        handle:start("r", function() seen = true end)
        luv.run "nowait"
        handle:stop()
        handle:close()
        luv.run "nowait"
        return seen
    end
elseif has_ffi then
    ffi.cdef [[
        struct spec_pollfd { int fd; short events; short revents; };
        int poll(struct spec_pollfd *fds, unsigned long count, int timeout);
    ]]
    function readable(fd)
        local entry = ffi.new("struct spec_pollfd", fd, 1, 0)
        return ffi.C.poll(entry, 1, 0) == 1
    end
end

local function settle()
    helper.eventually(function()
        threadpool.poll()
        return threadpool.pending() == 0
    end)
end

describe("the inst", function()
    local pool, calls

    before_each(function()
        pool = threadpool.fixed(1)
        calls = {}
    end)

    after_each(function()
        settle()
        pool:shutdown()
    end)

    -- Makes `count` completions wait here: they have all ended when this returns.
    local function waiting(count)
        for n = 1, count do
            threadpool.runInPool(pool, function() return n end, function(_, value)
                calls[#calls + 1] = value
            end, SCHED)
        end
        assert.are.same({ true }, { pool:run(function() end) })
    end

    it("fd is one descriptor", function()
        local fd = threadpool.fd()
        assert.is_true(fd >= 0 and fd % 1 == 0)
        assert.are.equal(fd, threadpool.fd())
        assert.matches("^%d+$", tostring(fd))
    end)

    it("poll dispatches what waits, in order, and counts it", function()
        waiting(5)
        assert.are.same({}, calls)
        assert.are.equal(5, threadpool.poll())
        assert.are.same({ 1, 2, 3, 4, 5 }, calls)
        assert.are.equal(0, threadpool.poll())
    end)

    it("poll(max) dispatches no more than that", function()
        waiting(5)
        assert.are.equal(2, threadpool.poll(2))
        assert.are.same({ 1, 2 }, calls)
        assert.are.equal(1, threadpool.poll(1))
        assert.are.equal(2, threadpool.poll(100))
        assert.are.same({ 1, 2, 3, 4, 5 }, calls)
        assert.are.equal(0, threadpool.poll(1))
    end)

    it("poll with nothing to do gives 0 and does not block", function()
        assert.are.equal(0, threadpool.poll())
        local path, open = helper.gate()
        pool:post(function() io.open(path):read() end)
        assert.are.equal(0, threadpool.poll())
        open()
        settle()
        os.remove(path)
    end)

    it("wait blocks until something was dispatched", function()
        local done
        threadpool.runInPool(pool, function() threadpool.sleep(0.01) end, function() done = true end, SCHED)
        assert.are.equal(1, threadpool.wait())
        assert.is_true(done)
        threadpool.runInPool(pool, function() threadpool.sleep(0.01) end, function() done = "again" end, SCHED)
        assert.are.equal(1, threadpool.wait(helper.TIMEOUT))
        assert.are.equal("again", done)
    end)

    it("wait with a time gives 0 when it is over", function()
        local path, open = helper.gate()
        pool:post(function() io.open(path):read() end)
        assert.are.equal(0, threadpool.wait(0))
        assert.are.equal(0, threadpool.wait(0.01))
        open()
        settle()
        os.remove(path)
    end)

    it("wait returns at once when something waits already", function()
        waiting(3)
        assert.are.equal(3, threadpool.wait())
        assert.are.same({ 1, 2, 3 }, calls)
    end)

    it("pending counts tasks until their outcomes were dispatched or awaited", function()
        assert.are.equal(0, threadpool.pending())
        local path, open = helper.gate()
        local held = pool:submit(function() io.open(path):read() end)
        threadpool.runInPool(pool, function() end, true)
        threadpool.runInPool(pool, function() end, function() end)
        threadpool.runInPool(pool, function() end, function() end, SCHED)
        pool:post(function() end)
        assert.are.equal(5, threadpool.pending())
        open()
        assert.are.same({ true }, { held:await(helper.TIMEOUT) })
        helper.eventually(function()
            threadpool.poll(1)
            return threadpool.pending() == 0
        end)
        os.remove(path)
    end)

    it("a completion that polls gets the others, none of them twice", function()
        local order = {}
        for n = 1, 5 do
            threadpool.runInPool(pool, function() end, function()
                order[#order + 1] = n
                if n == 2 then
                    threadpool.poll()
                end
            end, SCHED)
        end
        pool:run(function() end)
        settle()
        assert.are.same({ 1, 2, 3, 4, 5 }, order)
    end)

    it("a synchronous call dispatches no completions meanwhile", function()
        waiting(3)
        pool:run(function() end)
        threadpool.runInPool("CPU", function() end)
        pool:submit(function() end):await()
        assert.are.same({}, calls)
        assert.are.equal(3, threadpool.poll())
    end)

    it("refuses wrong arguments with the place of the call", function()
        for _, call in ipairs {
            function() threadpool.poll "all" end,
            function() threadpool.poll {} end,
            function() threadpool.wait "long" end,
            function() threadpool.wait {} end,
        } do
            local ok, err = pcall(call)
            assert.is_false(ok)
            assert.matches("inst_spec%.lua:%d+: ", err)
        end
    end)

    if not readable then
        return
    end

    it("fd is readable exactly while something waits", function()
        local fd = threadpool.fd()
        assert.is_false(readable(fd))
        for _ = 1, 20 do
            waiting(2)
            assert.is_true(readable(fd))
            assert.is_true(readable(fd))
            threadpool.poll()
            assert.is_false(readable(fd))
        end
    end)

    it("fd stays readable after a partial poll", function()
        local fd = threadpool.fd()
        waiting(3)
        for left = 2, 0, -1 do
            assert.is_true(readable(fd))
            assert.are.equal(1, threadpool.poll(1))
            assert.are.equal(left > 0, readable(fd))
        end
    end)

    it("fd is readable when it is asked for after the completions came", function()
        local status, out, err = helper.run(([[
            local threadpool = require "threadpool"
            package.cpath = %q
            local luv = require "luv"
            local pool = threadpool.fixed(1)
            local calls = 0
            for _ = 1, 3 do
                threadpool.runInPool(pool, function() end, function() calls = calls + 1 end,
                    threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED)
            end
            pool:run(function() end)
            local handle = luv.new_poll(threadpool.fd())
            handle:start("r", function()
                threadpool.poll()
                handle:close()
            end)
            luv.run()
            print(calls)
        ]]):format(package.cpath))
        if has_luv then
            assert.are.same({ 0, "3\n", "" }, { status, out, err })
        end
    end)

    it("fd is readable after a synchronous call took in what waits", function()
        local fd = threadpool.fd()
        waiting(2)
        threadpool.runInPool("CPU", function() end)
        assert.is_true(readable(fd))
        pool:submit(function() end):await()
        assert.is_true(readable(fd))
        threadpool.poll()
        assert.is_false(readable(fd))
    end)

    it("fd is not readable for what was awaited", function()
        local fd = threadpool.fd()
        for _ = 1, 20 do
            pool:run(function() end)
            pool:submit(function() end):await()
            assert.is_false(readable(fd))
        end
    end)

    it("fd turns readable for posts, and futures that nobody awaits yet, for one poll at most", function()
        local fd = threadpool.fd()
        pool:post(function() end)
        local future = pool:submit(function() return "kept" end)
        pool:run(function() end)
        threadpool.poll()
        assert.is_false(readable(fd))
        assert.are.equal(0, threadpool.pending())
        assert.are.same({ true, "kept" }, { future:await() })
    end)

    it("a completion that raises leaves the others waiting, and the fd readable", function()
        local fd = threadpool.fd()
        for n = 1, 3 do
            threadpool.runInPool(pool, function() end, function()
                calls[#calls + 1] = n
                if n == 1 then
                    threadpool.on_error(function() end)
                    error "raised by a completion"
                end
            end, SCHED)
        end
        pool:run(function() end)
        pcall(threadpool.poll, 1)
        assert.is_true(readable(fd))
        pcall(threadpool.poll)
        pcall(threadpool.poll)
        threadpool.on_error()
        assert.are.same({ 1, 2, 3 }, calls)
        assert.is_false(readable(fd))
    end)

    it("every wake-up comes: a loop that only looks when the fd is readable loses nothing", function()
        local fd, total, calls_seen = threadpool.fd(), 2000, 0
        local two = threadpool.fixed(2)
        for _ = 1, total do
            threadpool.runInPool(two, function() end, function() calls_seen = calls_seen + 1 end, SCHED)
        end
        helper.eventually(function()
            while readable(fd) do
                threadpool.poll(7)
            end
            return calls_seen == total
        end)
        assert.is_false(readable(fd))
        two:shutdown()
    end)
end)
