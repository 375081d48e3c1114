--- The end of a process: every way to end it, with tasks queued, running, sleeping and waited for. No crash, no hang,
-- and nothing lost but what the design says may be.

local helper = require "spec.helper"

local describe, it = helper.plainly(describe, it)
local assert = assert

local HAS_CLOSE = helper.interpreter.version ~= "5.1" or helper.interpreter.is_jit -- os.exit(code, close)

local PRELUDE = [[
    local threadpool = require "threadpool"
    local path = ...
    local SCHED = threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED
    local function mark(text)
        local file = io.open(path, "a")
        file:write(text, "\n")
        file:close()
    end
]]

-- Runs a program to its end; returns its status, how often it wrote each mark, and its stderr.
local function ended(program, options)
    local path = os.tmpname()
    options = options or {}
    options.args = { path }
    local status, out, err = helper.run(PRELUDE .. program, options)
    local marks = setmetatable({}, { __index = function() return 0 end })
    for mark in (helper.content(path) or ""):gmatch "[^\n]+" do
        marks[mark] = marks[mark] + 1
    end
    os.remove(path)
    return status, marks, err, out
end

local tasks = {
    ["200 queued tasks"] = [[
        local pool = threadpool.fixed(2)
        for _ = 1, 200 do
            pool:post(function() mark "task" end)
        end
        local expected = 200
    ]],
    ["running tasks"] = [[
        local pool = threadpool.fixed(2)
        for _ = 1, 4 do
            pool:post(function()
                local sum = 0
                for n = 1, 3000000 do
                    sum = sum + n
                end
                mark "task"
            end)
        end
        local expected = 4
    ]],
    ["sleeping tasks"] = [[
        local pool = threadpool.fixed(2)
        for _ = 1, 20 do
            pool:post(function()
                threadpool.sleep(0.1)
                mark "task"
            end)
        end
        local expected = 20
    ]],
    ["tasks that block their thread"] = [[
        for _ = 1, 3 do
            threadpool.runInPool("IO", function()
                os.execute "sleep 0.2"
                mark "task"
            end, true)
        end
        local expected = 3
    ]],
    ["tasks of CPU and IO at once"] = [[
        for n = 1, 50 do
            threadpool.runInPool(n % 2, function() mark "task" end, true)
        end
        local expected = 50
    ]],
    ["futures that nobody awaited"] = [[
        local pool, futures = threadpool.fixed(1), {}
        for n = 1, 50 do
            futures[n] = pool:submit(function() mark "task" return { n } end)
        end
        local expected = 50
    ]],
    ["completions on the worker"] = [[
        local pool = threadpool.fixed(1)
        for _ = 1, 20 do
            threadpool.runInPool(pool, function() end, function() mark "task" end)
        end
        local expected = 20
    ]],
    ["a large packet on its way"] = [[
        local list = {}
        for n = 1, 100000 do
            list[n] = { n }
        end
        threadpool.runInPool("CPU", function() mark "task" return list end, true)
        local expected = 1
    ]],
    ["nothing done yet"] = [[
        local expected = 0
    ]],
    ["only the fd in use"] = [[
        threadpool.fd()
        threadpool.poll()
        local expected = 0
    ]],
    ["idle workers"] = [[
        threadpool.runInPool("CPU", function() end)
        threadpool.runInPool("IO", function() end)
        local expected = 0
    ]],
    ["a pool that was shut down"] = [[
        local pool = threadpool.fixed(1)
        for _ = 1, 10 do
            pool:post(function() mark "task" end)
        end
        pool:shutdown()
        local expected = 10
    ]],
}

local names = {}
for name in pairs(tasks) do
    names[#names + 1] = name
end
table.sort(names)

describe("the end of the script with", function()
    for _, name in ipairs(names) do
        local program = tasks[name]
        local expected = tonumber(program:match "local expected = (%d+)")
        program = program:gsub("local expected = %d+", "")

        it(name .. ": by falling off its end, everything runs", function()
            local status, marks, err = ended(program)
            assert.are.same({ 0, expected, "" }, { status, marks.task, err })
        end)

        it(name .. ": by error, everything runs", function()
            local status, marks, err = ended(program .. " error 'the script failed'")
            assert.are.same({ 1, expected }, { status, marks.task })
            assert.matches("the script failed", err)
        end)

        it(name .. ": by os.exit(3), at once", function()
            local status, _, err = ended(program .. " os.exit(3)")
            assert.are.same({ 3, "" }, { status, err })
        end)

        if HAS_CLOSE then
            it(name .. ": by os.exit(true, true), everything runs", function()
                local status, marks, err = ended(program .. " os.exit(true, true)")
                assert.are.same({ 0, expected, "" }, { status, marks.task, err })
            end)
        end

        it(name .. ": inside a coroutine, by os.exit(4)", function()
            local status, _, err = ended(("coroutine.wrap(function() %s os.exit(4) end)()"):format(program))
            assert.are.same({ 4, "" }, { status, err })
        end)
    end
end)

describe("at exit", function()
    it("completions for the closing state are not run", function()
        local status, marks, err = ended [[
            local pool = threadpool.fixed(1)
            for _ = 1, 10 do
                threadpool.runInPool(pool, function() mark "task" end, function() mark "completion" end, SCHED)
            end
            pool:run(function() end) -- now all of them wait here
            for _ = 1, 10 do
                threadpool.runInPool(pool, function() mark "task" end, function() mark "completion" end, SCHED)
            end
        ]]
        assert.are.same({ 0, 20, 0, "" }, { status, marks.task, marks.completion, err })
    end)

    it("errors that nobody read go to stderr: of posts, futures and asynchronous calls", function()
        local status, marks, err = ended [[
            local pool = threadpool.fixed(1)
            pool:post(function() error "error of a post" end)
            local kept = pool:submit(function() error "error of a future" end)
            threadpool.runInPool(pool, function() error "error of a call" end, true)
            threadpool.runInPool(pool, function() error "error of a sleeper" end, true)
            pool:post(function() mark "last" end)
        ]]
        assert.are.same({ 0, 1 }, { status, marks.last })
        for _, text in ipairs { "of a post", "of a future", "of a call", "of a sleeper" } do
            local _, count = err:gsub("error " .. text, "")
            assert.is_true(count >= 1, text .. " is missing in: " .. err)
        end
    end)

    it("errors that waited here already, too; but not those that were read", function()
        local status, _, err = ended [[
            local pool = threadpool.fixed(1)
            pool:post(function() error "unread" end)
            local read = pool:submit(function() error "was read" end)
            print(read:await())
            pool:run(function() error "returned" end)
        ]]
        assert.are.equal(0, status)
        assert.matches("unread", err)
        assert.is_nil(err:find "was read")
        assert.is_nil(err:find "returned")
    end)

    it("on_error of the closing state is not called", function()
        local status, marks = ended [[
            threadpool.on_error(function() mark "handler" end)
            threadpool.fixed(1):post(function() error "x" end)
        ]]
        assert.are.same({ 0, 0 }, { status, marks.handler })
    end)

    it("tasks that submit more get an error, and the process ends", function()
        local status = ended [[
            local pool = threadpool.fixed(2)
            local id = pool.id
            for _ = 1, 10 do
                pool:post(function()
                    threadpool.sleep(0.05)
                    local fn = function() return 1 end
                    for _ = 1, 10 do
                        threadpool.runInPool(id, fn)
                        pcall(threadpool.runInPool, "CPU", fn, true)
                        pcall(threadpool.fixed, 1)
                        threadpool.sleep(0.001)
                    end
                end)
            end
        ]]
        assert.are.equal(0, status)
    end)

    it("tasks that submit themselves again and again do not keep it", function()
        local status = ended [[
            local function again()
                threadpool.sleep(0.001)
                pcall(threadpool.runInPool, "CPU", again, true)
            end
            for _ = 1, 4 do
                threadpool.runInPool("CPU", again, true)
            end
            threadpool.sleep(0.02)
        ]]
        assert.are.equal(0, status)
    end)

    it("what finalizers submit is refused, and does not hang", function()
        local status, _, err = ended [[
            local pool = threadpool.fixed(1)
            local object
            local function gc()
                local ok, e = pcall(function()
                    local ok, e = threadpool.runInPool("CPU", function() return 1 end)
                    if not ok then error(e) end
                end)
                io.stderr:write(ok and "ran" or tostring(e), "\n")
                pcall(threadpool.poll)
                pcall(threadpool.wait, 0.01)
                pcall(threadpool.fd)
                pcall(pool.post, pool, function() end)
                pcall(pool.shutdown, pool)
                pcall(threadpool.pending)
            end
            if newproxy then
                object = newproxy(true)
                getmetatable(object).__gc = gc
            else
                object = setmetatable({}, { __gc = gc })
            end
            early = { object } -- lives until the state closes
            pool:run(function() end)
        ]]
        assert.are.equal(0, status)
        -- Finalizers run in an order that is Lua's: this one before or after the module's own.
        assert.is_true(err == "ran\n" or err:find "^closed: " ~= nil, err)
    end)

    it("finalizers made before the module was loaded, too", function()
        local status, out = helper.run [[
            local threadpool
            local function gc()
                print(pcall(threadpool.runInPool, "CPU", function() return 1 end))
                print(pcall(threadpool.poll))
                print(pcall(threadpool.pending))
            end
            if newproxy then
                early = newproxy(true)
                getmetatable(early).__gc = gc
            else
                early = setmetatable({}, { __gc = gc })
            end
            threadpool = require "threadpool"
            threadpool.runInPool("CPU", function() end)
        ]]
        assert.are.equal(0, status)
        assert.matches("closed", out)
    end)

    it("os.exit does not wait for a task that never ends", function()
        local status = ended [[
            threadpool.runInPool("CPU", function() while true do end end, true)
            threadpool.runInPool("IO", function() os.execute "sleep 60" end, true)
            threadpool.sleep(0.05)
            os.exit(5)
        ]]
        assert.are.equal(5, status)
    end)

    it("gives up after some seconds on a task that never ends, and names it #slow", function()
        local status, marks, err = ended([[
            threadpool.runInPool("CPU", function() while true do end end, true)
            threadpool.fixed(1, { name = "good" }):post(function() mark "task" end)
        ]], { timeout = 3 * helper.TIMEOUT })
        assert.are.same({ 0, 1 }, { status, marks.task })
        assert.matches("CPU%-worker%-1", err)
        assert.matches("lua_%w+:9", err) -- where the function is defined
    end)

    it("waits longer while tasks still end #slow", function()
        local status, marks, err = ended([[
            local pool = threadpool.fixed(1)
            for _ = 1, 9 do
                pool:post(function()
                    threadpool.sleep(0.8)
                    for _ = 1, 10 do end
                    mark "task"
                end)
            end
            local chain = threadpool.fixed(1)
            for _ = 1, 9 do
                chain:post(function() os.execute "sleep 0.8" mark "task" end)
            end
        ]], { timeout = 3 * helper.TIMEOUT })
        assert.are.same({ 0, 18, "" }, { status, marks.task, err })
    end)

    it("os.exit in a task ends the process with that status", function()
        local status = ended [[
            threadpool.runInPool("CPU", function() os.exit(6) end)
        ]]
        assert.are.equal(6, status)
        status = ended [[
            threadpool.runInPool("CPU", function() os.exit(7) end, true)
            threadpool.sleep(5)
        ]]
        assert.are.equal(7, status)
    end)

    it("while the host waits for a signal that kills it: nothing hangs", function()
        local status = ended [[
            local id = io.open("/proc/self/stat"):read "*n"
            threadpool.runInPool("CPU", function() while true do threadpool.sleep(0.01) end end, true)
            os.execute("kill -TERM " .. ("%d"):format(id))
            threadpool.sleep(5)
        ]]
        assert.are.equal(128 + 15, status)
    end)

    it("repeated starts and ends with much going on #stress", function()
        for _ = 1, 20 do
            local status, marks, err = ended [[
                local pool = threadpool.fixed(4)
                for n = 1, 50 do
                    pool:post(function() mark "task" end)
                    pool:submit(function() return n end)
                    threadpool.runInPool("IO", function() end, function() end)
                    threadpool.runInPool("CPU", function() end, function() end, SCHED)
                end
            ]]
            assert.are.same({ 0, 50, "" }, { status, marks.task, err })
        end
    end)
end)
