--- Much at once: nothing is lost, nothing comes twice, and memory stays where it was. #stress

local helper = require "spec.helper"

local assert = assert

local function run(program)
    local status, out, err = helper.run('local threadpool = require "threadpool"\n' .. program, {
        timeout = 12 * helper.TIMEOUT,
    })
    assert.are.same({ 0, "" }, { status, err })
    return out
end

describe("under load #stress", function()
    it("20,000 tasks, every seventh fails: each completes once, and the sum is right", function()
        assert.are.equal("20000\t2857\t171431429\t0\n", run [[
            local pool = threadpool.fixed(2)
            local TOTAL = 20000
            local seen, count, failed, sum = {}, 0, 0, 0
            for n = 1, TOTAL do
                local list = { n }
                threadpool.runInPool(pool, function()
                    if n % 7 == 0 then
                        error { n = n }
                    end
                    return n, list[1]
                end, function(ok, value, again)
                    local id = ok and value or value.n
                    if seen[id] or id ~= n or ok and again ~= n then
                        error("wrong or twice: " .. id)
                    end
                    seen[id] = true
                    count = count + 1
                    failed = failed + (ok and 0 or 1)
                    sum = sum + (ok and value or 0)
                end, threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED)
                if n % 100 == 0 then
                    threadpool.poll()
                end
            end
            while threadpool.pending() > 0 do
                threadpool.wait(1)
            end
            print(("%d\t%d\t%d\t%d"):format(count, failed, sum, threadpool.pending()))
        ]])
    end)

    it("futures, posts and synchronous calls mixed, from tasks too", function()
        assert.are.equal("500500\t500500\t1000\n", run [[
            local pool = threadpool.fixed(3)
            local id = pool.id
            local futures, errors = {}, 0
            threadpool.on_error(function() errors = errors + 1 end)
            local direct, nested = 0, 0
            for n = 1, 1000 do
                futures[n] = pool:submit(function()
                    local ok, value = threadpool.runInPool(id, function() return n end)
                    threadpool.sleep(n % 5 / 10000)
                    return ok and value
                end)
                pool:post(function() error "counted" end)
                if n % 10 == 0 then
                    for k = n - 9, n do
                        direct = direct + select(2, threadpool.runInPool("CPU", function() return k end))
                    end
                end
            end
            for n = 1, 1000 do
                nested = nested + futures[n]:get()
            end
            while threadpool.pending() > 0 do
                threadpool.wait(1)
            end
            print(("%d\t%d\t%d"):format(direct, nested, errors))
        ]])
    end)

    it("200,000 tasks that do nothing: none is lost", function()
        assert.are.equal("200000\t0\n", run [[
            local pool = threadpool.fixed(2)
            local count = 0
            local function nothing() end
            local function completion() count = count + 1 end
            for _ = 1, 200000 do
                threadpool.runInPool(pool, nothing, completion, threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED)
            end
            while threadpool.pending() > 0 do
                threadpool.wait(1)
            end
            print(("%d\t%d"):format(count, threadpool.pending()))
        ]])
    end)

    it("pools that come and go", function()
        assert.are.equal("done\n", run [[
            for n = 1, 100 do
                local pool = threadpool.fixed(2)
                local futures = {}
                for k = 1, 10 do
                    futures[k] = pool:submit(function() return k end)
                end
                if n % 2 == 0 then
                    pool:shutdown()
                end
                for k = 1, 10 do
                    assert(futures[k]:get() == k)
                end
            end
            print "done"
        ]])
    end)

    -- Kilobytes of this process, and of its Lua state, after each of some rounds of the same work.
    local ROUNDS = [[
        local function resident()
            local file = io.open "/proc/self/statm"
            local pages = select(2, file:read("*n", "*n"))
            file:close()
            return pages * 4
        end
        local function settle()
            while threadpool.pending() > 0 do
                threadpool.wait(1)
            end
            collectgarbage()
            collectgarbage()
        end
        local function measure(work)
            local first, last
            for round = 1, 8 do
                work()
                settle()
                if round == 3 then
                    first = { resident(), collectgarbage "count" }
                end
                last = { resident(), collectgarbage "count" }
            end
            print(("%.0f\t%.0f"):format(last[1] - first[1], last[2] - first[2]))
        end
    ]]

    local function flat(work, noise)
        local resident, state = run(ROUNDS .. work):match "^(%-?%d+)\t(%-?%d+)\n$"
        -- Over five rounds of thousands of tasks, a leak of 100 bytes for each would show.
        assert.is_true(tonumber(resident) < (noise or 3000), resident .. " KB more in the process")
        assert.is_true(tonumber(state) < 100, state .. " KB more in the state")
    end

    it("memory: tasks with upvalues, arguments, results and errors", function()
        flat [[
            local pool = threadpool.fixed(2)
            measure(function()
                for n = 1, 10000 do
                    local list = { n, { tostring(n) } }
                    threadpool.runInPool(pool, function()
                        if n % 10 == 0 then
                            error { list }
                        end
                        return list, n
                    end, function() end, threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED)
                end
            end)
        ]]
    end)

    it("memory: futures, dropped and awaited, and completions on workers", function()
        flat [[
            local pool = threadpool.fixed(2)
            measure(function()
                for n = 1, 5000 do
                    local future = pool:submit(function(x) return { x } end, n)
                    if n % 2 == 0 then
                        future:await()
                    end
                    threadpool.runInPool(pool, function() return n end, function() return n end)
                end
            end)
        ]]
    end)

    it("memory: code that is new each time", function()
        flat [[
            local pool = threadpool.fixed(1)
            local load, serial = loadstring or load, 0
            measure(function()
                for _ = 1, 3000 do
                    serial = serial + 1
                    local source = "local x = %d return function() return x + %d end"
                    pool:run(load(source:format(serial, serial))())
                end
            end)
        ]]
    end)

    it("memory: closures of one code made anew each time", function()
        flat [[
            local pool = threadpool.fixed(1)
            measure(function()
                for n = 1, 10000 do
                    local function inner() return n end
                    pool:run(function() return inner() end)
                end
            end)
        ]]
    end)

    it("memory: what was refused at submit", function()
        flat [[
            local pool = threadpool.fixed(1)
            local file = io.tmpfile()
            measure(function()
                for n = 1, 5000 do
                    pcall(pool.run, pool, function() return n end, { n, { ("x"):rep(100), file } })
                    pool:run(function() return { n, io.stdout, coroutine.create(print) } end)
                end
            end)
        ]]
    end)

    it("memory: large packets", function()
        flat([[
            local pool = threadpool.fixed(2)
            local text = ("x"):rep(1000000)
            measure(function()
                for _ = 1, 20 do
                    pool:run(function() return text end)
                    pool:submit(function(t) return #t end, { text, text })
                end
            end)
        ]], 20000) -- what an allocator keeps of megabytes comes and goes; 300 MB went through
    end)

    it("memory: pools that come and go", function()
        flat [[
            measure(function()
                for _ = 1, 40 do
                    local pool = threadpool.fixed(2)
                    pool:run(function() end)
                    pool:run(function() end)
                    pool:shutdown()
                    pool:wait_for_termination()
                end
            end)
        ]]
    end)

    it("memory: tasks that wait, parked and blocked", function()
        flat([[
            local pool = threadpool.fixed(2)
            local id = pool.id
            measure(function()
                local futures = {}
                for n = 1, 1000 do
                    futures[n] = pool:submit(function()
                        threadpool.sleep(0)
                        local _, value = threadpool.runInPool(id, function() return n end)
                        if n % 100 == 0 then
                            coroutine.wrap(function() threadpool.runInPool(id, function() end) end)()
                        end
                        return value
                    end)
                end
                for n = 1, 1000 do
                    futures[n]:get()
                end
            end)
        ]], 16000) -- threads come and go here, and the allocator's arenas with them: it varies by some megabytes
    end)
end)
